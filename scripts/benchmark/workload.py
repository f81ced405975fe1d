"""What is pushed: the same bytes, modes and times on every machine."""

import os
import random

TIME = 1_700_000_000
WORDS = ("address allow backend bind burst cache cert check deny drain header key limit listen log match path policy port "
         "prefix rate redirect retry rule server socket status subnet thread timeout upstream view weight worker zone").split()


class Text:
    """Text like that of configuration files, which compresses as they do."""

    def __init__(self, seed):
        self.random = random.Random(seed)
        pick = self.random
        self.lines = []
        for _ in range(20_000):
            word, other, indent = pick.choice(WORDS), pick.choice(WORDS), "  " * pick.randrange(4)
            value = pick.choice([f"{other}{pick.randrange(100_000)}", str(pick.randrange(65_536)),
                                 f"10.{pick.randrange(256)}.{pick.randrange(256)}.0/24"])
            self.lines.append(f"{indent}{word}-{other}: {value}\n")

    def of(self, size):
        """Exactly so many bytes."""
        text = "".join(self.random.choices(self.lines, k=size // 16 + 1)).encode()
        return text[:size - 1] + b"\n"


def write(root, tree):
    for name, content in tree.items():
        path = os.path.join(root, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(content)
        os.chmod(path, 0o644)
    settle(root)


def settle(root):
    for path, _, files in os.walk(root, topdown=False):
        for name in files:
            os.utime(os.path.join(path, name), (TIME, TIME))
        os.chmod(path, 0o755)
        os.utime(path, (TIME, TIME))


def small():
    """200 files, 1 MiB, up to four directories deep."""
    text, tree = Text(1), {}
    weights = [text.random.lognormvariate(0, 1) for _ in range(200)]
    sizes = [max(64, int((1 << 20) * weight / sum(weights))) for weight in weights]
    sizes[0] += (1 << 20) - sum(sizes)
    for number, size in enumerate(sizes):
        way = [f"d{text.random.randrange(4)}" for _ in range(text.random.randrange(1, 5))]
        tree["/".join(way + [f"conf-{number:03}.yaml"])] = text.of(size)
    return tree


def large():
    """10,000 files of about 4 KiB in 100 directories."""
    text = Text(2)
    return {f"a{n // 1000}/b{n // 100 % 10}/f{n:05}.conf": text.of(text.random.randrange(3584, 4609))
            for n in range(10_000)}


def changed(tree, share, seed):
    """The same with some files' content changed, not their length."""
    text = Text(seed)
    names = text.random.sample(sorted(tree), max(1, int(len(tree) * share)))
    return tree | {name: text.of(len(tree[name])) for name in names}


def big(root):
    """One file of 1 GiB that no compression helps with, and 100 small ones."""
    text = Text(4)
    write(root, {f"small/s{n:03}.yaml": text.of(2048) for n in range(100)})
    with open(os.path.join(root, "blob"), "wb") as file:
        for _ in range(1024):
            file.write(text.random.randbytes(1 << 20))
    settle(root)
