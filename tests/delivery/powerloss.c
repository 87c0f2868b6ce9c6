/* Writes down, in order, what a process does to the files of one folder: loaded by LD_PRELOAD, read by powerloss.py.
   While the file POWERLOSS_FAIL is there, with the number of an error in it, nothing can be written in that folder.
   While the file POWERLOSS_CLOCK is there, the clock is ahead by so many seconds as it says.
   A record is: kind, length of path, offset, length of data (each 8 bytes), path, data. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static void say(char kind, const char *path, int64_t offset, const void *data, int64_t length) {
    const char *folder = getenv("POWERLOSS_FOLDER"), *log = getenv("POWERLOSS_LOG");
    if (!folder || !log || strncmp(path, folder, strlen(folder))) return;
    int64_t head[4] = {kind, (int64_t)strlen(path), offset, length};
    struct iovec parts[3] = {{head, sizeof head}, {(void *)path, head[1]}, {(void *)data, length}};
    if (writev(atoi(log), parts, 3) < 0) abort();
}

static void say_of(char kind, int fd, int64_t offset, const void *data, int64_t length) {
    char link[64], path[PATH_MAX] = {0};
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    if (readlink(link, path, sizeof path - 1) > 0) say(kind, path, offset, data, length);
}

static int fails(int fd) {
    char link[64], path[PATH_MAX] = {0}, number[16] = {0};
    const char *folder = getenv("POWERLOSS_FOLDER"), *fault = getenv("POWERLOSS_FAIL");
    if (!folder || !fault) return 0;
    int from = open(fault, O_RDONLY);
    if (from < 0) return errno = 0;
    if (read(from, number, sizeof number - 1) < 0) number[0] = 0;
    close(from);
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    if (readlink(link, path, sizeof path - 1) < 0 || strncmp(path, folder, strlen(folder))) return 0;
    errno = atoi(number);
    return errno != 0;
}

ssize_t pwrite(int fd, const void *data, size_t length, off_t offset) {
    if (fails(fd)) return -1;
    ssize_t done = REAL(pwrite)(fd, data, length, offset);
    if (done > 0) say_of('w', fd, offset, data, done);
    return done;
}
ssize_t pwrite64(int fd, const void *data, size_t length, off64_t offset) {
    if (fails(fd)) return -1;
    ssize_t done = REAL(pwrite64)(fd, data, length, offset);
    if (done > 0) say_of('w', fd, offset, data, done);
    return done;
}
int ftruncate(int fd, off_t length) {
    if (fails(fd)) return -1;
    int failed = REAL(ftruncate)(fd, length);
    if (!failed) say_of('t', fd, length, "", 0);
    return failed;
}
int ftruncate64(int fd, off64_t length) {
    if (fails(fd)) return -1;
    int failed = REAL(ftruncate64)(fd, length);
    if (!failed) say_of('t', fd, length, "", 0);
    return failed;
}
int fsync(int fd) {
    if (fails(fd)) return -1;
    int failed = REAL(fsync)(fd);
    if (!failed) say_of('s', fd, 0, "", 0);
    return failed;
}
int fdatasync(int fd) {
    if (fails(fd)) return -1;
    int failed = REAL(fdatasync)(fd);
    if (!failed) say_of('s', fd, 0, "", 0);
    return failed;
}
int clock_gettime(clockid_t id, struct timespec *time) {
    static __typeof__(&clock_gettime) real;
    char number[16] = {0};
    const char *step = id == CLOCK_REALTIME ? getenv("POWERLOSS_CLOCK") : NULL;
    if (!real) real = REAL(clock_gettime);
    int failed = real(id, time), before = errno, from = step ? open(step, O_RDONLY) : -1;
    if (from >= 0) {
        if (read(from, number, sizeof number - 1) > 0) time->tv_sec += atoi(number);
        close(from);
    }
    errno = before;
    return failed;
}
int unlink(const char *path) {
    int failed = REAL(unlink)(path);
    if (!failed) say('u', path, 0, "", 0);
    return failed;
}
