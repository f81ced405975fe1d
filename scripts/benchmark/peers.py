"""Who is measured, and how each is driven.

A peer's step is a shell script: $1 is its store, $2 a source tree or a number, $3 a number. After `push` the content is in
the store, found by its number, as a plain tree where the peer has that, and a power cut takes nothing of it: whatever a
peer does not flush by itself gets the one flush of the file system (`sync -f`) that it lacks. Bash costs each of them
about 2 ms, as it would in anybody's script; ours is run without.
"""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass


@dataclass(frozen=True)
class Peer:
    """One way to keep generations; a step that it has not is empty."""

    name: str
    program: str
    note: str
    init: str
    push: str
    # swings to generation $2, durably
    activate: str = ""
    # makes $2 generations with as little in each as listing them needs
    remember: str = ""
    list: str = ""
    # what `push` leaves out that keeps generation $3, and the removal of all but the last 10
    keep: str = ":"
    prune: str = ""
    prune_note: str = ""
    # before every step
    setting: str = ":"
    # rows that take it so long that it runs twice only, and not at all with --quick
    slow: tuple = ()

    def command(self, step, store, *more):
        script = f"set -e -o pipefail; {self.setting}\n{getattr(self, step)}"
        return ["bash", "-c", script, "bash", store, *map(str, more)]

    def has(self, step):
        return bool(getattr(self, step))


SWAP = 'ln -s "gen-$2" "$1/.next"; mv -T "$1/.next" "$1/current"; sync "$1"'
OLD_TREES = 'cd "$1"; ls -d gen-* | sort -t- -k2n | head -n -10 | xargs rm -rf'
GIT = 'git --git-dir="$1/repo"'

PEERS = [
    Peer(
        name="shell", program="cp", note="cp -a; sync -f",
        init='mkdir "$1"',
        push='cp -a "$2" "$1/gen-$3"; sync -f "$1"',
        activate=SWAP,
        remember='mkdir $(seq -f "$1/gen-%.0f" "$2")',
        list='ls -l "$1"',
        prune_note="rm -rf",
        prune=OLD_TREES,
    ),
    Peer(
        name="rsync", program="rsync", note="rsync -a --checksum --link-dest; sync -f",
        init='mkdir "$1"',
        push='rsync -a --checksum --link-dest="$1/gen-$(($3 - 1))/" "$2/" "$1/gen-$3/" 2>/dev/null; sync -f "$1"',
    ),
    Peer(
        name="nix", program="nix-store", note="nix-store --add; sync -f. Activation: nix-env --switch-generation; sync",
        setting='export NIX_STORE_DIR="$1/store" NIX_STATE_DIR="$1/var" NIX_LOG_DIR="$1/log" NIX_CONF_DIR="$1/etc" '
                "NIX_REMOTE=local NIX_CONFIG=$'build-users-group =\\nsandbox = false'; profiles=$1/var/nix-profiles",
        init='mkdir "$1"; nix-store --init; mkdir -p "$profiles"',
        push='nix-store --add "$2" > "$1/last"; sync -f "$1"',
        keep='nix-env -p "$profiles/cfg" --set "$(cat "$1/last")"',
        activate='nix-env -p "$profiles/cfg" --switch-generation "$2"; sync "$profiles"',
        remember='mkdir "$1/0" "$1/1"; echo 1 > "$1/1/f"; a=$(nix-store --add "$1/0"); b=$(nix-store --add "$1/1"); '
                 'for ((i = 0; i < $2; i += 2)); do nix-env -p "$profiles/cfg" --set "$a"; '
                 'nix-env -p "$profiles/cfg" --set "$b"; done',
        list='nix-env -p "$profiles/cfg" --list-generations',
        prune_note="nix-env --delete-generations +10; nix-store --gc",
        prune='nix-env -p "$profiles/cfg" --delete-generations +10; nix-store --gc',
    ),
    Peer(
        name="ostree", program="ostree", note="ostree commit; checkout -H; sync -f. Activation: ostree reset; ln, mv, sync",
        init='mkdir "$1"; ostree --repo="$1/repo" init --mode=bare',
        push='ostree --repo="$1/repo" commit -b cfg --tree=dir="$2" -s "gen $3"; '
             'ostree --repo="$1/repo" checkout -H cfg "$1/gen-$3"; sync -f "$1"',
        keep='ostree --repo="$1/repo" refs --create="g$3" cfg',
        activate='ostree --repo="$1/repo" reset cfg "g$2"; ' + SWAP,
        remember='mkdir "$1/tree"; ostree --repo="$1/repo" config set core.fsync false; '
                 'for ((i = 0; i < $2; i++)); do echo "$i" > "$1/tree/f"; '
                 'ostree --repo="$1/repo" commit -b cfg --tree=dir="$1/tree" -s "gen $i"; done',
        list='ostree --repo="$1/repo" log cfg',
        prune_note="rm -rf; ostree prune --refs-only --depth=9",
        prune='cd "$1"; ostree --repo=repo refs --delete $(ostree --repo=repo refs | grep "^g[0-9]"); '
              + OLD_TREES + '; ostree --repo=repo prune --refs-only --depth=9',
    ),
    Peer(
        name="git", program="git", note="core.fsync=all, fsyncMethod=batch; add, commit, update-ref, worktree add; sync -f",
        init='mkdir "$1"; git init -q --bare "$1/repo"; for kv in core.bare=false user.name=b user.email=b@b gc.auto=0 '
             f'maintenance.auto=false core.fsync=all core.fsyncMethod=batch; do {GIT} config "${{kv%%=*}}" "${{kv#*=}}"; done',
        push=f'{GIT} --work-tree="$2" add -A .; {GIT} --work-tree="$2" commit -q --allow-empty -m "gen $3"; '
             f'{GIT} update-ref "refs/generations/$3" HEAD; '
             f'{GIT} worktree add -q --detach "$1/gen-$3" "refs/generations/$3"; sync -f "$1"',
        remember=f'mkdir "$1/tree"; {GIT} config core.fsync none; for ((i = 0; i < $2; i++)); do '
                 f'echo "$i" > "$1/tree/f"; {GIT} --work-tree="$1/tree" add -A .; '
                 f'{GIT} --work-tree="$1/tree" commit -q -m "gen $i"; done',
        list=f"{GIT} log --format='%H %cI %s'",
        prune_note="rm -rf; worktree prune; refs and history cut; gc --prune=now",
        prune=OLD_TREES + "; git --git-dir=repo worktree prune; "
              "git --git-dir=repo for-each-ref --format='delete %(refname)' --sort=creatordate refs/generations | "
              "sort -t/ -k3n | head -n -10 | git --git-dir=repo update-ref --stdin; "
              "git --git-dir=repo rev-list -n1 --skip=9 HEAD > repo/shallow; "
              "git --git-dir=repo reflog expire --expire=now --all; git --git-dir=repo gc -q --prune=now",
        slow=(4,),
    ),
    Peer(
        name="casync", program="casync", note="casync make; extract; sync -f",
        init='mkdir "$1"',
        push='casync make --store="$1/castr" "$1/gen-$3.caidx" "$2"; '
             'casync extract --store="$1/castr" "$1/gen-$3.caidx" "$1/gen-$3"; sync -f "$1"',
        prune_note="rm -rf; casync gc",
        prune='cd "$1"; ls gen-*.caidx | sort -t- -k2n | head -n -10 | while read -r f; do rm -rf "$f" "${f%.caidx}"; '
              "done; casync gc --store=castr gen-*.caidx",
        slow=(2, 3, 4, 7),
    ),
    Peer(
        name="restic", program="restic", note="restic backup, which flushes by itself; keeps no tree that could be used",
        setting='export RESTIC_PASSWORD=x RESTIC_CACHE_DIR="$1/cache" RESTIC_REPOSITORY="$1/repo"',
        init='mkdir "$1"; restic -q init',
        push='cd "$2"; restic -q backup .',
        remember='mkdir "$1/tree"; cd "$1/tree"; for ((i = 0; i < $2; i++)); do echo "$i" > f; restic -q backup .; done',
        list="restic -q snapshots",
        prune_note="restic forget --keep-last 10 --prune",
        prune='restic -q forget --group-by "" --keep-last 10 --prune',
        slow=(2, 3, 4, 6, 7),
    ),
]

# where they are in Debian
PACKAGES = ["git", "ostree", "nix-bin", "rsync", "restic", "casync", "strace", "e2fsprogs", "gcc", "libc6-dev"]


class Ours:
    """pointsman: the same steps, by name."""

    name, slow = "pointsman", ()
    note = "push"

    def __init__(self, program):
        self.program = program

    def command(self, step, store, *more):
        arguments = {
            "init": lambda: ["init"],
            "push": lambda source, _number: ["push", source],
            "deploy": lambda source, _number: ["deploy", source],
            "activate": lambda identity: ["activate", identity],
            "plan": lambda identity: ["activate", "--dry-run", identity],
            "list": lambda: ["list"],
            "prune": lambda: ["gc"],
        }[step](*map(str, more))
        return [self.program, "--store", store, *arguments]

    def version(self):
        return first_line([self.program, "--version"])

    def can(self, subcommand):
        asked = subprocess.run([self.program, subcommand, "--help"], capture_output=True)
        return asked.returncode == 0

    def generations(self, store):
        text = subprocess.run([self.program, "--store", store, "list", "--json"], capture_output=True, check=True).stdout
        return [generation["id"] for generation in json.loads(text)["generations"]]


def installed():
    return [peer for peer in PEERS if shutil.which(peer.program)]


def first_line(command):
    run = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    return run.stdout.strip().splitlines()[0] if run.stdout.strip() else ""


def versions():
    found = {}
    for peer in installed():
        line = first_line([peer.program, "version" if peer.name == "restic" else "--version"])
        if peer.name == "ostree":  # YAML
            text = subprocess.run(["ostree", "--version"], capture_output=True, text=True).stdout
            line = "ostree " + text.split("Version:", 1)[-1].split("\n")[0].strip(" '")
        line = " ".join(line.split(" compiled")[0].split("  protocol")[0].split())
        found[peer.name] = line or f"{peer.name} of an unknown version"
    return found


def install():
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        sys.exit(f"bench: --install needs root and apt-get; the peers' Debian packages are {' '.join(PACKAGES)}")
    os.environ["DEBIAN_FRONTEND"] = "noninteractive"
    subprocess.run(["apt-get", "update", "-qq"], check=True)
    subprocess.run(["apt-get", "install", "-y", "-qq", "--no-install-recommends", *PACKAGES], check=True,
                   stdout=subprocess.DEVNULL)
