// What the system calls alone cost, in one thread: prints the seconds they took.
//
//   floor write SOURCE TARGET        every file of SOURCE, read before, is written to TARGET; syncfs
//   floor link BASE SOURCE TARGET    the same, but what is the same in BASE is a hard link to there
//   floor copy SOURCE TARGET         as write, with the reading: files that no memory shall hold
//   floor activate DIRECTORY TREE TIMES
//                                    the median of: every file of TREE is read; a record is written and flushed with its
//                                    name; symlink, rename over `current`, fsync; another record
#define _GNU_SOURCE
#include <err.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

struct node { char *path; int is_dir, same; size_t size; char *content; };
static struct node *nodes;
static size_t count, room, skip;

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec + t.tv_nsec / 1e9;
}

static int visit(const char *path, const struct stat *meta, int kind, struct FTW *at) {
  if (at->level == 0) return 0;
  if (count == room) nodes = realloc(nodes, sizeof *nodes * (room = room ? room * 2 : 1024));
  if (!nodes) err(1, "memory");
  nodes[count++] = (struct node){strdup(path + skip), kind == FTW_D, 0, meta->st_size, NULL};
  return 0;
}

static const char *join(const char *dir, const char *name) {
  static char path[8192];
  snprintf(path, sizeof path, "%s/%s", dir, name);
  return path;
}

static char *content(const char *path, size_t size) {
  char *bytes = malloc(size + 1);
  int fd = open(path, O_RDONLY);
  if (!bytes || fd < 0) return NULL;
  size_t have = 0;
  for (ssize_t n; have < size && (n = read(fd, bytes + have, size - have)) > 0;) have += n;
  close(fd);
  if (have != size) errx(1, "%s is shorter than it was", path);
  return bytes;
}

static void put(int fd, const char *bytes, size_t size) {
  for (ssize_t n; size; bytes += n, size -= n)
    if ((n = write(fd, bytes, size)) <= 0) err(1, "write");
}

static void flush(const char *dir) {
  int fd = open(dir, O_RDONLY | O_DIRECTORY);
  if (fd < 0 || syncfs(fd)) err(1, "syncfs");
  close(fd);
}

static double tree(const char *base, const char *source, const char *target, int hold) {
  skip = strlen(source) + 1;
  if (nftw(source, visit, 64, FTW_PHYS)) err(1, "%s", source);
  for (size_t i = 0; i < count && hold; i++) {
    struct node *n = &nodes[i];
    if (n->is_dir) continue;
    if (!(n->content = content(join(source, n->path), n->size))) err(1, "%s", n->path);
    char *before = base ? content(join(base, n->path), n->size) : NULL;
    n->same = before && !memcmp(before, n->content, n->size);
    free(before);
  }
  static char buffer[128 << 10]; // as cp: with 1 MiB at a time it takes twice as long
  double start = now();
  if (mkdir(target, 0755)) err(1, "%s", target);
  for (size_t i = 0; i < count; i++) {
    struct node *n = &nodes[i];
    if (n->is_dir) {
      if (mkdir(join(target, n->path), 0755)) err(1, "%s", n->path);
    } else if (n->same) {
      char *from = strdup(join(base, n->path));
      if (!from || link(from, join(target, n->path))) err(1, "%s", n->path);
      free(from);
    } else {
      int fd = open(join(target, n->path), O_WRONLY | O_CREAT | O_EXCL, 0444);
      if (fd < 0) err(1, "%s", n->path);
      if (hold) {
        put(fd, n->content, n->size);
      } else {
        int from = open(join(source, n->path), O_RDONLY);
        for (ssize_t got; (got = read(from, buffer, sizeof buffer)) > 0;) put(fd, buffer, got);
        close(from);
      }
      close(fd);
    }
  }
  flush(target);
  return now() - start;
}

static int by_size(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

static char *chunk;
static size_t longest = 1 << 20;

static int look(const char *path, const struct stat *meta, int kind, struct FTW *at) {
  (void)at;
  if (kind != FTW_F) return 0;
  int fd = open(path, O_RDONLY);
  if (fd < 0) err(1, "%s", path);
  for (off_t left = meta->st_size; left > 0;) {
    ssize_t n = read(fd, chunk, longest);
    if (n <= 0) err(1, "%s", path);
    left -= n;
  }
  return close(fd);
}

static void record(int dir, const char *name) {
  static char text[400];
  memset(text, 'x', sizeof text);
  int fd = openat(dir, name, O_WRONLY | O_CREAT | O_EXCL, 0444);
  if (fd < 0) err(1, "%s", name);
  put(fd, text, sizeof text);
  if (fsync(fd) || close(fd) || fsync(dir)) err(1, "%s", name);
}

static double activate(const char *dir, const char *of, int times) {
  double *took = calloc(times, sizeof *took);
  chunk = malloc(longest);
  int fd = open(dir, O_RDONLY | O_DIRECTORY);
  if (!took || !chunk || fd < 0) err(1, "%s", dir);
  for (int i = 0; i < times; i++) {
    char event[32], outcome[32];
    snprintf(event, sizeof event, "%d-%d", getpid(), i);
    snprintf(outcome, sizeof outcome, "%d-%d.outcome", getpid(), i);
    double start = now();
    if (nftw(of, look, 64, FTW_PHYS)) err(1, "%s", of);
    record(fd, event);
    if (symlinkat(i % 2 ? "gen-1" : "gen-2", fd, ".next") || renameat(fd, ".next", fd, "current") || fsync(fd)) err(1, "swap");
    record(fd, outcome);
    took[i] = now() - start;
  }
  qsort(took, times, sizeof *took, by_size);
  return took[times / 2];
}

int main(int argc, char **argv) {
  const char *what = argc > 3 ? argv[1] : "";
  double took;
  if (!strcmp(what, "write") && argc == 4) took = tree(NULL, argv[2], argv[3], 1);
  else if (!strcmp(what, "copy") && argc == 4) took = tree(NULL, argv[2], argv[3], 0);
  else if (!strcmp(what, "link") && argc == 5) took = tree(argv[2], argv[3], argv[4], 1);
  else if (!strcmp(what, "activate") && argc == 5 && atoi(argv[4]) > 0) took = activate(argv[2], argv[3], atoi(argv[4]));
  else errx(2, "see the head of floor.c");
  printf("%.9f\n", took);
  return 0;
}
