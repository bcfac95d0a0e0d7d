"""The steps of torch's quickstart, in words of our own.

https://docs.pytorch.org/tutorials/beginner/basics/quickstart_tutorial.html
"""

import torch
from torch import nn
from torch.utils.data import DataLoader
from torchvision import datasets
from torchvision.transforms import ToTensor

train_images = datasets.FashionMNIST(root="data", train=True, download=True, transform=ToTensor())
test_images = datasets.FashionMNIST(root="data", train=False, download=True, transform=ToTensor())
train_batches, test_batches = DataLoader(train_images, batch_size=64), DataLoader(test_images, batch_size=64)

device = "cuda" if torch.cuda.is_available() else "cpu"
model = nn.Sequential(
    nn.Flatten(), nn.Linear(28 * 28, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10)
).to(device)
loss_fn = nn.CrossEntropyLoss()
optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)


def train() -> None:
    model.train()
    for number, (x, y) in enumerate(train_batches):
        loss = loss_fn(model(x.to(device)), y.to(device))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if number % 100 == 0:
            print(f"loss: {loss.item():>7f}  [{(number + 1) * len(x):>5d}/{len(train_images):>5d}]")


def test() -> float:
    model.eval()
    loss, correct = 0.0, 0
    with torch.no_grad():
        for x, y in test_batches:
            scores = model(x.to(device))
            loss += loss_fn(scores, y.to(device)).item()
            correct += (scores.argmax(1) == y.to(device)).sum().item()
    print(f"accuracy: {100 * correct / len(test_images):>0.1f}%, average loss: {loss / len(test_batches):>8f}")
    return loss / len(test_batches)


for epoch in range(5):
    print(f"epoch {epoch + 1}")
    train()
    test_loss = test()
torch.save(model.state_dict(), "model.pth")
model.load_state_dict(torch.load("model.pth", weights_only=True))
