"""A recipe of ``numbaconv train`` in PyTorch: the same initial weights, the same batches, the same steps.

pip install -e ".[mnist]" torch && python examples/torch_recipe.py --data mnist --model lenet5

Images, their order and their random shifts come from numbaconv, with the random numbers that ``numbaconv train`` draws;
forward, loss, backward and SGD are PyTorch's. So both see the same batches, and what differs is rounding and time.
"""

import argparse
import time

import numpy as np
import torch

from numbaconv import data, nn
from numbaconv.cli.recipes import OPTIMIZERS, RECIPES, augmentation, default_augment, model_arguments
from numbaconv.data import Compose

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--data", default="digits")
parser.add_argument("--model", default="digits_cnn", choices=["digits_cnn", "lenet5", "mnist_cnn"])
parser.add_argument("--epochs", type=int, help="by default those of the recipe")
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--threads", type=int, default=torch.get_num_threads())
parser.add_argument("--channels-last", action="store_true", help="the other memory format, often the faster one")
options = parser.parse_args()

torch.set_num_threads(options.threads)
memory_format = torch.channels_last if options.channels_last else torch.contiguous_format
recipe, images = RECIPES[options.model], data.load(options.data)
epochs = options.epochs or recipe.epochs
augment = Compose([augmentation(text) for text in default_augment(options.model, images.image_shape)])


def in_torch(layer: nn.Module) -> torch.nn.Module:
    """One layer of numbaconv in PyTorch; the arguments have the same names."""
    match layer:
        case nn.Conv2d():
            sizes = layer.in_channels, layer.out_channels, layer.kernel_size, layer.stride, layer.padding
            return torch.nn.Conv2d(*sizes)
        case nn.Linear():
            return torch.nn.Linear(layer.in_features, layer.out_features)
        case nn.MaxPool2d():
            return torch.nn.MaxPool2d(layer.kernel_size, layer.stride)
        case _:
            return getattr(torch.nn, type(layer).__name__)()  # ReLU, Flatten


ours = nn.models.MODELS[options.model](**model_arguments(options.model, images), rng=options.seed)
model = torch.nn.Sequential(*map(in_torch, ours))
model.load_state_dict(nn.to_torch_state_dict(ours))
model.to(memory_format=memory_format)

x, y = images.train_images, torch.from_numpy(images.train_labels)
batches = -(-len(x) // recipe.batch_size)
loss_function = torch.nn.CrossEntropyLoss(label_smoothing=recipe.label_smoothing)
sgd = {"lr": recipe.sgd_lr, "momentum": 0.9, "nesterov": True, "weight_decay": OPTIMIZERS["sgd"]}
optimizer = torch.optim.SGD(model.parameters(), **sgd)
schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * batches)


def accuracy() -> float:
    """The share of the test images that are recognised."""
    model.eval()
    with torch.inference_mode():
        parts = torch.from_numpy(images.test_images).split(256)
        predicted = torch.cat([model(part.to(memory_format=memory_format)).argmax(1) for part in parts])
    return (predicted.numpy() == images.test_labels).mean()


rng = np.random.default_rng([options.seed, 1])
steps = []
start, processor = time.perf_counter(), time.process_time()
for epoch in range(1, epochs + 1):
    model.train()
    total = 0.0
    order = rng.permutation(len(x))
    for first in range(0, len(x), recipe.batch_size):
        began = time.perf_counter()
        chosen = order[first : first + recipe.batch_size]
        batch = torch.from_numpy(augment(x[chosen], rng)).to(memory_format=memory_format)
        optimizer.zero_grad()
        loss = loss_function(model(batch), y[chosen])
        loss.backward()
        optimizer.step()
        schedule.step()
        total += loss.item() * len(chosen)
        steps.append(time.perf_counter() - began)
    print(f"{epoch}/{epochs}  loss {total / len(x):.4f}  test {accuracy():.2%}", flush=True)
seconds, processor = time.perf_counter() - start, time.process_time() - processor
print(
    f"test accuracy {accuracy():.2%}, trained in {seconds:.1f} s ({processor:.1f} s of processor time); "
    f"a step took {np.median(steps) * 1e3:.2f} ms (median)"
)
