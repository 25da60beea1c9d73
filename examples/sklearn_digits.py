"""A convolutional network among scikit-learn's tools: a pipeline, a grid search, and a report on unseen digits.

pip install -e ".[sklearn]" && python examples/sklearn_digits.py
"""

from sklearn.datasets import load_digits
from sklearn.metrics import classification_report
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler

from numbaconv.sklearn import CNNClassifier

X, y = load_digits(return_X_y=True)  # 1,797 rows of 64 features: 8×8 pixels
X_train, X_test, y_train, y_test = train_test_split(X, y, test_size=0.25, stratify=y, random_state=0)

pipeline = make_pipeline(MinMaxScaler(), CNNClassifier("digits_cnn", epochs=15, random_state=0))
grid = {"cnnclassifier__lr": [0.001, 0.005, 0.02]}
search = GridSearchCV(pipeline, grid, cv=3).fit(X_train, y_train)

print("best parameters:", search.best_params_)
print(f"accuracy in cross-validation {search.best_score_:.2%}, on unseen images {search.score(X_test, y_test):.2%}")
print(classification_report(y_test, search.predict(X_test), digits=3))
