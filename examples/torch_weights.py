"""A network that PyTorch trained, run by numbaconv, and back.

pip install -e ".[cli]" torch && python examples/torch_weights.py
"""

import tempfile
from pathlib import Path

import numpy as np
import safetensors.torch
import torch

from numbaconv import data, nn

digits = data.load_digits()
images, labels = torch.from_numpy(digits.train_images), torch.from_numpy(digits.train_labels)

# The layers of nn.models.digits_cnn, in the same order: so their weights have the same names.
torch.manual_seed(0)
theirs = torch.nn.Sequential(
    torch.nn.Conv2d(1, 8, 3, padding=1),
    torch.nn.ReLU(),
    torch.nn.Conv2d(8, 16, 3, stride=2, padding=1),
    torch.nn.ReLU(),
    torch.nn.Flatten(),
    torch.nn.Linear(256, 10),
)
optimizer = torch.optim.SGD(theirs.parameters(), lr=0.05, momentum=0.9)
for _ in range(10):
    for batch in torch.randperm(len(images)).split(32):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(theirs(images[batch]), labels[batch]).backward()
        optimizer.step()

# From PyTorch to numbaconv, from memory ...
ours = nn.models.digits_cnn()
nn.load_torch_state_dict(ours, theirs.state_dict())
with torch.no_grad():
    difference = np.abs(ours(digits.test_images) - theirs(torch.from_numpy(digits.test_images)).numpy()).max()
accuracy = (ours(digits.test_images).argmax(1) == digits.test_labels).mean()
print(f"PyTorch's weights in numbaconv: test accuracy {accuracy:.2%}, largest difference of a logit {difference:.1e}")

with tempfile.TemporaryDirectory() as folder:
    # ... or from a file.
    path = Path(folder) / "torch.safetensors"
    safetensors.torch.save_file(theirs.state_dict(), path)
    nn.load_torch_state_dict(ours, nn.load_safetensors(path))

    # Go on training here, then from numbaconv to PyTorch, in a file or in memory.
    trainer = nn.Trainer(ours, nn.SGD(lr=0.01, momentum=0.9))
    trainer.fit(digits.train_images, digits.train_labels, epochs=5, seed=0)
    nn.save_model(Path(folder) / "numbaconv.safetensors", ours)
    theirs.load_state_dict(safetensors.torch.load_file(Path(folder) / "numbaconv.safetensors"))
    theirs.load_state_dict(nn.to_torch_state_dict(ours))

with torch.no_grad():
    accuracy = (theirs(torch.from_numpy(digits.test_images)).argmax(1).numpy() == digits.test_labels).mean()
print(f"numbaconv's weights in PyTorch: test accuracy {accuracy:.2%}")
