"""Where things are measured, and how: the file system, one process at a time, what the machine is."""

import contextlib
import datetime
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.realpath(__file__))

# A parent counts in the memory that the kernel reports for its child, so this one is as small as Python gets.
RUNNER = """
import os, sys, time
out, err = [os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600) for path in sys.argv[1:3]]
null = os.open("/dev/null", os.O_RDONLY)
moves = [(os.POSIX_SPAWN_DUP2, fd, at) for at, fd in enumerate((null, out, err))]
start = time.monotonic()
child = os.posix_spawnp(sys.argv[3], sys.argv[3:], os.environ, file_actions=moves)
_, status, usage = os.wait4(child, 0)
end = time.monotonic()
print(end - start, usage.ru_utime + usage.ru_stime, usage.ru_maxrss, os.waitstatus_to_exitcode(status))
"""


class Failed(Exception):
    """Something that should have worked did not; the text says what."""


class Sample:
    """One run of one process: seconds, CPU seconds, most memory in KiB, what it printed."""

    def __init__(self, seconds, cpu, memory, out):
        self.seconds, self.cpu, self.memory, self.out = seconds, cpu, memory, out


class Place:
    """A directory on the file system to measure on."""

    def __init__(self, path, kind):
        self.path, self.kind = path, kind
        self.home = self.make("home")
        self.floor_program = os.path.join(path, "floor")
        subprocess.run(["cc", "-O2", "-o", self.floor_program, os.path.join(HERE, "floor.c")], check=True)

    def make(self, name):
        path = self.at(name)
        os.mkdir(path)
        return path

    def at(self, name):
        return os.path.join(self.path, name)

    def describe(self):
        mount = subprocess.run(["findmnt", "-nro", "FSTYPE,OPTIONS", "-T", self.path], capture_output=True, text=True)
        return f"{mount.stdout.strip()} ({self.kind})"

    def environment(self):
        return {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": self.home,
                "LC_ALL": "C", "TMPDIR": self.home}

    def sync(self):
        subprocess.run(["sync", "-f", self.path], check=True)

    def measure(self, command):
        """Runs this to its end, and insists on success."""
        out, err = self.at("home/out"), self.at("home/err")
        runner = subprocess.Popen([sys.executable, "-I", "-S", "-c", RUNNER, out, err, *command], cwd=self.path,
                                  env=self.environment(), stdout=subprocess.PIPE, text=True, start_new_session=True)
        try:
            text, _ = runner.communicate()
        except BaseException:
            os.killpg(runner.pid, signal.SIGKILL)
            raise
        if runner.returncode != 0:
            raise Failed(f"cannot run {command[0]}")
        seconds, cpu, memory, code = text.split()
        if code != "0":
            raise Failed(f"`{' '.join(command)[:300]}` failed with {code}: {read(err)[-600:].strip()}")
        return Sample(float(seconds), float(cpu), int(memory), read(out))

    def do(self, command):
        """Runs this unmeasured; what it printed."""
        return self.measure(command).out.strip()

    def used(self, path):
        """Allocated KiB and inodes beneath a path, each inode once."""
        count = [subprocess.run(["du", "-s", option, path], capture_output=True, text=True, check=True).stdout
                 for option in ("--block-size=1K", "--inodes")]
        return tuple(int(text.split()[0]) for text in count)


def remove(path):
    """Removes a tree, read-only directories too."""
    if os.path.isdir(path) and os.geteuid() != 0:
        subprocess.run(["chmod", "-R", "u+w", path], check=True)
    subprocess.run(["rm", "-rf", path], check=True)


def read(path):
    with open(path, errors="replace") as file:
        return file.read()


@contextlib.contextmanager
def place(given):
    """The place that was asked for; gone again on every way out."""
    if given.dir:
        path = tempfile.mkdtemp(prefix="pm-bench.", dir=given.dir)
        try:
            yield Place(path, "as it was found")
        finally:
            remove(path)
        return
    if os.geteuid() != 0:
        raise Failed("an ext4 image needs root; give a directory on a journaled file system with --dir")
    with contextlib.ExitStack() as ways_out:
        base = tempfile.mkdtemp(prefix="pm-bench.", dir=given.image_in)
        ways_out.callback(shutil.rmtree, base)
        image, mount = os.path.join(base, "image"), os.path.join(base, "mount")
        os.mkdir(mount)
        free = shutil.disk_usage(base).free >> 30
        if free < given.image_size + 2:
            raise Failed(f"{base} has {free} GiB free; give another --image-in, a smaller --image-size or --dir")
        # written in full, so that no run pays for the first allocation beneath it
        subprocess.run(["dd", "if=/dev/zero", f"of={image}", "bs=4M", f"count={given.image_size * 256}",
                        "oflag=direct", "status=none"], check=True)
        subprocess.run(["mkfs.ext4", "-q", "-F", "-E", "nodiscard,lazy_itable_init=0,lazy_journal_init=0", image],
                       check=True)
        loop = subprocess.run(["losetup", "-f", "--show", "--direct-io=on", image], check=True, capture_output=True,
                              text=True).stdout.strip()
        ways_out.callback(subprocess.run, ["losetup", "-d", loop])
        subprocess.run(["mount", loop, mount], check=True)
        ways_out.callback(subprocess.run, ["umount", mount])
        yield Place(mount, f"a {given.image_size} GiB image behind a loop device with direct I/O")


def load():
    return " ".join(read("/proc/loadavg").split()[:3])


def facts():
    models = [line.split(":", 1)[1].strip() for line in read("/proc/cpuinfo").splitlines()
              if line.startswith("model name")]
    memory = int(read("/proc/meminfo").split()[1]) >> 20
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "processor": f"{models[0] if models else platform.machine()}, {os.cpu_count()} cores, {memory} GiB",
        "kernel": f"{platform.system()} {platform.release()}",
        "load before": load(),
    }
