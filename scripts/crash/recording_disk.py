"""A disk that keeps a log: every write and every flush that a file system sends, in the order it did.

Device mapper has log-writes for this, where the kernel was built with it. This needs only FUSE, which every
kernel has: one file, served from here, under a loop device. It speaks the protocol itself, since for one file
that is ten messages (linux/fuse.h), and a library would be one more thing to install.

As a program: recording_disk.py IMAGE LOG SERVED-AS, which says `ready` and ends when SERVED-AS is unmounted.
"""

import ctypes
import errno
import os
import struct
import subprocess
import sys

# One log entry: what, offset, length; then as many bytes.
ENTRY = struct.Struct("<cQI")
WRITE, FLUSH, MARK = b"w", b"f", b"m"

GETATTR, SETATTR, OPEN, READ, WRITE_FILE, STATFS, RELEASE = 3, 4, 14, 15, 16, 17, 18
FSYNC, FLUSH_FILE, INIT = 20, 25, 26
FORGET, INTERRUPT, DESTROY, BATCH_FORGET = 2, 36, 38, 42
UNANSWERED = {FORGET, INTERRUPT, BATCH_FORGET}

REQUEST = struct.Struct("<IIQQIIIHH")  # length, operation, request, node, uid, gid, pid, extensions, padding
ANSWER = struct.Struct("<IiQ")  # length, -errno, request
READ_OR_WRITE = struct.Struct("<QQIIQII")  # handle, offset, size, flags, owner, flags, padding
# What a disk does at once is never lost by the page cache of this file: there is none.
DIRECT_IO = 1
LARGEST_WRITE = 128 * 1024


class RecordingDisk:
    """The server as a child process, and the writer's end of the log."""

    def __init__(self, image, log, served_as):
        self.served_as = served_as
        self.log = log
        for new in (served_as, log):
            open(new, "wb").close()
        self.server = subprocess.Popen([sys.executable, __file__, image, log, served_as], stdout=subprocess.PIPE)
        if self.server.stdout.readline() != b"ready\n":
            raise OSError("no file can be served with FUSE here")

    def mark(self, label):
        """Says in the log that what comes later came after this."""
        with open(self.log, "ab", buffering=0) as log:
            log.write(ENTRY.pack(MARK, 0, len(label)) + label.encode())

    def stop(self):
        subprocess.run(["umount", self.served_as], check=True)
        self.server.wait(timeout=30)


def read_log(path):
    """The entries, as (what, offset, bytes)."""
    with open(path, "rb") as file:
        log = memoryview(file.read())
    entries, at = [], 0
    while at < len(log):
        what, offset, length = ENTRY.unpack_from(log, at)
        at += ENTRY.size
        entries.append((what, offset, bytes(log[at : at + length])))
        at += length
    return entries


def serve(image, log, served_as):
    image = os.open(image, os.O_RDWR)
    log = os.open(log, os.O_WRONLY | os.O_APPEND)
    fuse = os.open("/dev/fuse", os.O_RDWR)
    mount = ctypes.CDLL(None, use_errno=True).mount
    options = f"fd={fuse},rootmode=100600,user_id=0,group_id=0,max_read={LARGEST_WRITE}".encode()
    if mount(b"recording-disk", os.fsencode(served_as), b"fuse", 0, options) != 0:
        raise OSError(ctypes.get_errno(), "mounting a FUSE file")
    print("ready", flush=True)
    while True:
        try:
            request = os.read(fuse, LARGEST_WRITE + 4096)
        except InterruptedError:
            continue
        except OSError as e:
            if e.errno == errno.ENODEV:  # unmounted
                return
            if e.errno == errno.ENOENT:  # taken back before it was read
                continue
            raise
        _, operation, number, *_ = REQUEST.unpack_from(request)
        if operation in UNANSWERED:
            continue
        try:
            error, answer = 0, answer_to(operation, request[REQUEST.size :], image, log)
        except OSError as e:
            error, answer = -e.errno, b""
        os.write(fuse, ANSWER.pack(ANSWER.size + len(answer), error, number) + answer)


def answer_to(operation, body, image, log):
    if operation == READ:
        _, offset, size, *_ = READ_OR_WRITE.unpack_from(body)
        return os.pread(image, size, offset)
    if operation == WRITE_FILE:
        _, offset, size, *_ = READ_OR_WRITE.unpack_from(body)
        data = body[READ_OR_WRITE.size : READ_OR_WRITE.size + size]
        os.write(log, ENTRY.pack(WRITE, offset, size) + data)
        os.pwrite(image, data, offset)
        return struct.pack("<II", size, 0)
    if operation == FSYNC:
        os.write(log, ENTRY.pack(FLUSH, 0, 0))
        return b""
    if operation in (GETATTR, SETATTR):
        return struct.pack("<QII", 3600, 0, 0) + attributes(os.fstat(image).st_size)
    if operation == OPEN:
        return struct.pack("<QII", 0, DIRECT_IO, 0)
    if operation == STATFS:
        return struct.pack("<QQQQQIIII24x", 0, 0, 0, 0, 0, 4096, 255, 4096, 0)
    if operation == INIT:
        _, minor, read_ahead, _ = struct.unpack_from("<IIII", body)
        return struct.pack("<IIIIHHIIHHI28x", 7, min(minor, 31), read_ahead, 0, 16, 12, LARGEST_WRITE, 1, 0, 0, 0)
    if operation in (RELEASE, FLUSH_FILE, DESTROY):
        return b""
    raise OSError(errno.ENOSYS, "not needed for a disk")


def attributes(size):
    times = (0,) * 6
    return struct.pack("<QQQQQQIIIIIIIIII", 1, size, size // 512, *times, 0o100600, 1, 0, 0, 0, 4096, 0)


if __name__ == "__main__":
    serve(*sys.argv[1:])
