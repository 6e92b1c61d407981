/* Makes the disk fail: preload this library, and from the armed call on every call that changes anything
   below the folder $DISK_FAULTS_ROOT returns an error instead. Nothing fails before disk_faults_arm(). Calls
   are counted from there on, over this process and all that it forks. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

static atomic_long *calls;
static long first = -1, last = -1;
static int code;

/* Let calls number `from` to `to`, counted from 0 on, fail with the error `error`; none if `from` is negative. */
void disk_faults_arm(long from, long to, int error) {
    if (!calls) calls = mmap(NULL, sizeof *calls, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (calls == MAP_FAILED) abort();
    atomic_store(calls, 0);
    first = from, last = to, code = error;
}

long disk_faults_calls(void) { return atomic_load(calls); }

static int below(const char *path) {
    const char *root = getenv("DISK_FAULTS_ROOT");
    return root && path && !strncmp(path, root, strlen(root));
}

static int open_below(int descriptor) {
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return below(path);
}

static int inside(int folder, const char *path) {
    return path && path[0] == '/' ? below(path) : folder != AT_FDCWD && open_below(folder);
}

static int fails(int concerned) {
    if (!concerned || first < 0) return 0;
    long number = atomic_fetch_add(calls, 1);
    if (number < first || number > last) return 0;
    errno = code;
    return 1;
}

#define NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))
#define WRITING(flags) ((flags) & (O_WRONLY | O_RDWR | O_CREAT | O_TRUNC))

#define OPEN(name)                                                                                           \
    int name(const char *path, int flags, ...) {                                                             \
        va_list rest;                                                                                        \
        va_start(rest, flags);                                                                               \
        mode_t mode = (mode_t)va_arg(rest, int);                                                             \
        va_end(rest);                                                                                        \
        return fails(WRITING(flags) && below(path)) ? -1 : NEXT(name)(path, flags, mode);                    \
    }
#define OPENAT(name)                                                                                         \
    int name(int folder, const char *path, int flags, ...) {                                                 \
        va_list rest;                                                                                        \
        va_start(rest, flags);                                                                               \
        mode_t mode = (mode_t)va_arg(rest, int);                                                             \
        va_end(rest);                                                                                        \
        return fails(WRITING(flags) && inside(folder, path)) ? -1 : NEXT(name)(folder, path, flags, mode);   \
    }
#define CALL(result, name, declared, given, concerned)                                                       \
    result name declared { return fails(concerned) ? -1 : NEXT(name) given; }

OPEN(open)
OPEN(open64)
OPENAT(openat)
OPENAT(openat64)
CALL(ssize_t, write, (int f, const void *b, size_t n), (f, b, n), open_below(f))
CALL(ssize_t, pwrite, (int f, const void *b, size_t n, off_t o), (f, b, n, o), open_below(f))
CALL(ssize_t, pwrite64, (int f, const void *b, size_t n, off64_t o), (f, b, n, o), open_below(f))
CALL(int, fsync, (int f), (f), open_below(f))
CALL(int, fdatasync, (int f), (f), open_below(f))
CALL(int, ftruncate, (int f, off_t n), (f, n), open_below(f))
CALL(int, ftruncate64, (int f, off64_t n), (f, n), open_below(f))
CALL(int, truncate, (const char *p, off_t n), (p, n), below(p))
CALL(int, truncate64, (const char *p, off64_t n), (p, n), below(p))
CALL(int, mkdir, (const char *p, mode_t m), (p, m), below(p))
CALL(int, mkdirat, (int f, const char *p, mode_t m), (f, p, m), inside(f, p))
CALL(int, rename, (const char *a, const char *b), (a, b), below(b))
CALL(int, renameat, (int f, const char *a, int g, const char *b), (f, a, g, b), inside(g, b))
CALL(int, link, (const char *a, const char *b), (a, b), below(b))
CALL(int, linkat, (int f, const char *a, int g, const char *b, int s), (f, a, g, b, s), inside(g, b))
CALL(int, unlink, (const char *p), (p), code == EROFS && below(p))
CALL(int, unlinkat, (int f, const char *p, int s), (f, p, s), code == EROFS && inside(f, p))
