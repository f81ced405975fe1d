"""File systems on images: made, mounted, cut off, looked through."""

import errno
import fcntl
import os
import struct
import subprocess
import uuid
from contextlib import contextmanager
from dataclasses import dataclass


class Broken(Exception):
    """A state that must not be; the text says which."""


@dataclass(frozen=True)
class FileSystem:
    name: str
    mebibytes: int
    make: list
    options: str
    check: list
    can_shut_down: bool = True
    without_flush: str = None  # options with which it never tells the disk to flush


FILE_SYSTEMS = {
    fs.name: fs
    for fs in [
        # all that mkfs puts off would be written while we record; and ext4 must not flush what is renamed over
        # another file by itself, as it does to help programs that forget to
        FileSystem(
            "ext4",
            64,
            ["mkfs.ext4", "-q", "-F", "-b", "4096", "-E", "lazy_itable_init=0,lazy_journal_init=0"],
            "noauto_da_alloc",
            ["e2fsck", "-f", "-n"],
            without_flush="noauto_da_alloc,nobarrier",
        ),
        # it refuses to be smaller, and the same one to be mounted twice
        FileSystem("xfs", 304, ["mkfs.xfs", "-q", "-f"], "nouuid", ["xfs_repair", "-n"]),
        # an fsync commits only what it is asked for, so here each sync counts by itself
        FileSystem("btrfs", 128, ["mkfs.btrfs", "-q", "-f"], "defaults", ["btrfs", "check", "-q"], can_shut_down=False),
    ]
}

# EXT4_IOC_SHUTDOWN and XFS_IOC_GOINGDOWN are the same number; 2 is "without writing the journal"
SHUTDOWN, WITHOUT_JOURNAL = 0x8004587D, 2


def run(*command, **options):
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options)
    if done.returncode != 0:
        raise Broken(f"`{' '.join(map(str, command[:2]))}` fails: {done.stdout.strip()}")
    return done.stdout


def copy(image, to):
    """Only what is in it; its holes stay holes."""
    with open(image, "rb") as old, open(to, "wb") as new:
        size, at = os.fstat(old.fileno()).st_size, 0
        new.truncate(size)
        while True:
            try:
                at = os.lseek(old.fileno(), at, os.SEEK_DATA)
            except OSError as e:
                if e.errno == errno.ENXIO:  # nothing more
                    return
                raise
            end = os.lseek(old.fileno(), at, os.SEEK_HOLE)
            os.lseek(new.fileno(), at, os.SEEK_SET)
            while at < end:
                at += os.sendfile(new.fileno(), old.fileno(), at, end - at)


def make(fs, image):
    with open(image, "wb") as file:
        file.truncate(fs.mebibytes << 20)
    run(*fs.make, image)
    run("fallocate", "--dig-holes", image)


@contextmanager
def mounted(fs, image, at, options=None):
    """The mount takes its loop device with it."""
    os.makedirs(at, exist_ok=True)
    run("mount", "-t", fs.name, "-o", f"loop,{options or fs.options}", image, at)
    try:
        yield at
    finally:
        run("umount", at)


def check(fs, image):
    run(*fs.check, image)


def commit(mount):
    """What any other program may do at any time: its fsync commits the journal, with our names in it."""
    with open(os.path.join(mount, "unrelated"), "ab") as file:
        file.write(b"x")
        file.flush()
        os.fsync(file.fileno())


def cut(mount):
    """From now on nothing reaches the disk: neither what is in memory, nor what was not yet committed."""
    fd = os.open(mount, os.O_RDONLY)
    fcntl.ioctl(fd, SHUTDOWN, struct.pack("I", WITHOUT_JOURNAL))
    os.close(fd)


class Boot:
    """This machine's boot id, another one after each power cut. Needs a mount namespace of its own."""

    def __init__(self, file):
        self.file = file
        self.again()
        run("mount", "--bind", file, "/proc/sys/kernel/random/boot_id")

    def again(self):
        with open(self.file, "w") as file:
            file.write(f"{uuid.uuid4()}\n")
