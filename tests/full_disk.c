/* A disk that is full after so many writes: to be loaded before the C library (LD_PRELOAD).

   Counted are the writes to files below $FULL_DISK, in all processes forked from the first one together. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/types.h>
#include <unistd.h>

static long *left; /* writes that still succeed */

__attribute__((constructor)) static void begin(void) {
    left = mmap(NULL, sizeof *left, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    *left = 1L << 40;
}

long *full_disk_left(void) { return left; }

static int full(int file) {
    const char *root = getenv("FULL_DISK");
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = root ? readlink(link, path, sizeof path - 1) : -1;
    if (length < 0 || strncmp(path, root, strlen(root)))
        return 0;
    if (__atomic_sub_fetch(left, 1, __ATOMIC_SEQ_CST) >= 0)
        return 0;
    errno = ENOSPC;
    return 1;
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

ssize_t write(int file, const void *content, size_t size) {
    return full(file) ? -1 : REAL(write)(file, content, size);
}

ssize_t pwrite(int file, const void *content, size_t size, off_t place) {
    return full(file) ? -1 : REAL(pwrite)(file, content, size, place);
}

ssize_t pwrite64(int file, const void *content, size_t size, off64_t place) {
    return full(file) ? -1 : REAL(pwrite64)(file, content, size, place);
}

size_t fwrite(const void *content, size_t size, size_t count, FILE *file) {
    return full(fileno(file)) ? 0 : REAL(fwrite)(content, size, count, file);
}
