/* Stands between a process and the files of one folder: loaded by LD_PRELOAD, told what to do by shim.py.

   While the file SHIM_CLOCK is there, the clock is ahead by so many seconds as it says.

   It writes down, in order, what is done to the files (into the descriptor SHIM_LOG, if that is given), and lets calls
   fail. A record is: kind, length of path, offset, length of data (each 8 bytes), path, data. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static int is_watched(const char *path) {
    const char *folder = getenv("SHIM_FOLDER");
    return folder && !strncmp(path, folder, strlen(folder));
}

static int find(int fd, char path[PATH_MAX]) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, PATH_MAX - 1);
    path[length < 0 ? 0 : length] = 0;
    return is_watched(path);
}

/* Writing down */

static void say(char kind, const char *path, int64_t offset, const void *data, int64_t length) {
    const char *log = getenv("SHIM_LOG");
    if (!log || !is_watched(path)) return;
    int64_t head[4] = {kind, (int64_t)strlen(path), offset, length};
    struct iovec parts[3] = {{head, sizeof head}, {(void *)path, head[1]}, {(void *)data, length}};
    if (writev(atoi(log), parts, 3) < 0) abort();
}

static void say_of(char kind, int fd, int64_t offset, const void *data, int64_t length) {
    char path[PATH_MAX];
    if (getenv("SHIM_LOG") && find(fd, path)) say(kind, path, offset, data, length);
}

/* Failing: of the calls of these kinds, counted from when this is said, those from the first on, for so many times. */

enum { READ = 1, WRITE = 2, SYNC = 4, TRUNCATE = 8, LOCK = 16, OPEN = 32, MAP = 64 };
static volatile int64_t kinds, first, times, calls, error;

void shim_arm(int64_t of_kinds, int64_t from, int64_t so_often, int64_t with) {
    kinds = 0;
    calls = 0;
    first = from;
    times = so_often;
    error = with;
    kinds = of_kinds;
}

int64_t shim_calls(void) { return calls; }

static int counts(void) {
    int64_t number = __sync_add_and_fetch(&calls, 1);
    if (number < first || number >= first + times) return 0;
    errno = (int)error;
    return 1;
}

static int fails(int kind, int fd) {
    char path[PATH_MAX];
    return (kinds & kind) && find(fd, path) && counts();
}

static int fails_at(int kind, const char *path) { return (kinds & kind) && is_watched(path) && counts(); }

/* The calls. A read that fails with 0 finds the end of the file. */

#define READING(name, offset_type)                                               \
    ssize_t name(int fd, void *data, size_t length, offset_type offset) {        \
        if (fails(READ, fd)) return error ? -1 : 0;                              \
        return REAL(name)(fd, data, length, offset);                             \
    }
#define WRITING(name, offset_type)                                               \
    ssize_t name(int fd, const void *data, size_t length, offset_type offset) {  \
        if (fails(WRITE, fd)) return -1;                                         \
        ssize_t done = REAL(name)(fd, data, length, offset);                     \
        if (done > 0) say_of('w', fd, offset, data, done);                       \
        return done;                                                             \
    }
#define CHANGING(name, kind, word, parameters, arguments, offset)                \
    int name parameters {                                                        \
        if (fails(kind, fd)) return -1;                                          \
        int failed = REAL(name) arguments;                                       \
        if (!failed) say_of(word, fd, offset, "", 0);                            \
        return failed;                                                           \
    }
#define LOCKING(name)                                                            \
    int name(int fd, int command, ...) {                                         \
        va_list rest;                                                            \
        va_start(rest, command);                                                 \
        void *argument = va_arg(rest, void *);                                   \
        va_end(rest);                                                            \
        int takes = command == F_SETLK && ((struct flock *)argument)->l_type != F_UNLCK; \
        if (takes && fails(LOCK, fd)) return -1;                                 \
        return REAL(name)(fd, command, argument);                                \
    }
#define OPENING(name)                                                            \
    int name(const char *path, int flags, ...) {                                 \
        va_list rest;                                                            \
        va_start(rest, flags);                                                   \
        mode_t mode = va_arg(rest, mode_t);                                      \
        va_end(rest);                                                            \
        if (fails_at(OPEN, path)) return -1;                                     \
        int is_new = (flags & O_CREAT) && access(path, F_OK);                    \
        int fd = REAL(name)(path, flags, mode);                                  \
        if (is_new && fd >= 0) say('c', path, 0, "", 0);                         \
        return fd;                                                               \
    }
#define MAPPING(name, offset_type)                                                               \
    void *name(void *at, size_t length, int protection, int flags, int fd, offset_type offset) { \
        if (fd >= 0 && fails(MAP, fd)) return MAP_FAILED;                                        \
        return REAL(name)(at, length, protection, flags, fd, offset);                            \
    }

READING(pread, off_t)
READING(pread64, off64_t)
WRITING(pwrite, off_t)
WRITING(pwrite64, off64_t)
CHANGING(ftruncate, TRUNCATE, 't', (int fd, off_t length), (fd, length), length)
CHANGING(ftruncate64, TRUNCATE, 't', (int fd, off64_t length), (fd, length), length)
CHANGING(fsync, SYNC, 's', (int fd), (fd), 0)
CHANGING(fdatasync, SYNC, 's', (int fd), (fd), 0)
LOCKING(fcntl)
LOCKING(fcntl64)
OPENING(open)
OPENING(open64)
MAPPING(mmap, off_t)
MAPPING(mmap64, off64_t)

int flock(int fd, int operation) {
    if (!(operation & LOCK_UN) && fails(LOCK, fd)) return -1;
    return REAL(flock)(fd, operation);
}

int unlink(const char *path) {
    int failed = REAL(unlink)(path);
    if (!failed) say('u', path, 0, "", 0);
    return failed;
}

int clock_gettime(clockid_t id, struct timespec *time) {
    static __typeof__(&clock_gettime) real;
    char number[16] = {0};
    const char *step = id == CLOCK_REALTIME ? getenv("SHIM_CLOCK") : NULL;
    if (!real) real = REAL(clock_gettime);
    int failed = real(id, time), before = errno, from = step ? open(step, O_RDONLY) : -1;
    if (from >= 0) {
        if (read(from, number, sizeof number - 1) > 0) time->tv_sec += atoi(number);
        close(from);
    }
    errno = before;
    return failed;
}
