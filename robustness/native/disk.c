/*
 * A disk and a wall clock that fail on command, preloaded into a server (LD_PRELOAD).
 *
 * RIG_CONTROL names a file that is mapped and shared with the rig: struct control below,
 * which robustness/native/control.ts writes. RIG_DISK is the directory whose files are watched,
 * as the kernel spells it. RIG_UNDO is a directory for undo logs: before a byte of a
 * watched file changes, what was there goes into a log, and a sync of the file empties
 * the log. After kill -9 the rig plays the logs back: the files are as a power loss
 * leaves them (robustness/native/power-loss.ts).
 *
 * Invariant: an undo record is in the page cache before the change that it undoes, and
 * it goes only after the real sync came back. Changes and syncs of watched files
 * take turns, so that no change falls between a sync and the emptying of its log.
 *
 * A sync of a file also makes its name durable, as on ext4 and XFS. Renames and removals
 * count as durable at once: SQLite does neither to a journal that is open.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

/* Shared with control.ts: 4 bytes each, but for the clock. Errors are errno values; 0 is none. */
struct control {
  volatile uint32_t write_error;
  volatile uint32_t write_permille;
  volatile uint32_t sync_error;
  volatile uint32_t sync_permille;
  volatile uint32_t read_error;
  volatile uint32_t read_permille;
  volatile uint32_t open_error;
  volatile uint32_t sync_delay_ms;
  volatile int64_t clock_offset_ms;
  volatile uint32_t keeps_undo;
  /* Counted here, read by the rig. */
  volatile uint32_t writes;
  volatile uint32_t syncs;
  volatile uint32_t failures;
};

enum { max_fds = 65536, undo_write = 1, undo_create = 2, undo_truncate = 3 };

/* What precedes the old bytes in a log; the path precedes the first of them. */
struct undo_record {
  uint32_t kind;
  uint32_t length;
  uint64_t offset;
  uint64_t old_size;
};

static struct control *control;
static const char *disk_directory;
static const char *undo_directory;
/* Inode numbers of watched files by file descriptor; 0 is none. */
static uint64_t watched[max_fds];
/* Descriptors of their undo logs, opened with the files: later there may be none left. */
static int undo_logs[max_fds];
static pthread_mutex_t turn = PTHREAD_MUTEX_INITIALIZER;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static ssize_t (*real_write)(int, const void *, size_t);
static ssize_t (*real_pwrite)(int, const void *, size_t, off64_t);
static ssize_t (*real_writev)(int, const struct iovec *, int);
static ssize_t (*real_pwritev)(int, const struct iovec *, int, off64_t);
static ssize_t (*real_read)(int, void *, size_t);
static ssize_t (*real_pread)(int, void *, size_t, off64_t);
static int (*real_ftruncate)(int, off64_t);
static int (*real_fallocate)(int, int, off64_t, off64_t);
static int (*real_fsync)(int);
static int (*real_fdatasync)(int);
static int (*real_open)(const char *, int, ...);
static int (*real_openat)(int, const char *, int, ...);
static int (*real_close)(int);
static int (*real_clock_gettime)(clockid_t, struct timespec *);
static int (*real_gettimeofday)(struct timeval *, void *);

static void *next(const char *name) {
  void *found = dlsym(RTLD_NEXT, name);
  if (found == NULL) abort();
  return found;
}

static void initialise(void) {
  real_write = next("write");
  real_pwrite = next("pwrite64");
  real_writev = next("writev");
  real_pwritev = next("pwritev64");
  real_read = next("read");
  real_pread = next("pread64");
  real_ftruncate = next("ftruncate64");
  real_fallocate = next("fallocate64");
  real_fsync = next("fsync");
  real_fdatasync = next("fdatasync");
  real_open = next("open64");
  real_openat = next("openat64");
  real_close = next("close");
  real_clock_gettime = next("clock_gettime");
  real_gettimeofday = next("gettimeofday");
  disk_directory = getenv("RIG_DISK");
  undo_directory = getenv("RIG_UNDO");
  const char *path = getenv("RIG_CONTROL");
  if (path == NULL) return;
  int fd = real_open(path, O_RDWR | O_CLOEXEC);
  if (fd < 0) return;
  void *map = mmap(NULL, sizeof(struct control), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  real_close(fd);
  if (map != MAP_FAILED) control = map;
}

static void ready(void) { pthread_once(&once, initialise); }

static int is_watched(int fd) { return fd >= 0 && fd < max_fds && watched[fd] != 0; }

/* Whether this operation is to fail; sets errno. */
static int fails(uint32_t error, uint32_t permille) {
  static __thread unsigned seed;
  if (error == 0) return 0;
  if (seed == 0) seed = (unsigned)(uintptr_t)&seed | 1;
  if ((uint32_t)rand_r(&seed) % 1000 >= permille) return 0;
  __sync_fetch_and_add(&control->failures, 1);
  errno = (int)error;
  return 1;
}

/* The log of a watched file; -1 where there is none, or no descriptor is left. */
static int open_undo(uint64_t inode, int is_new) {
  char path[4096];
  if (undo_directory == NULL) return -1;
  snprintf(path, sizeof path, "%s/%llu.undo", undo_directory, (unsigned long long)inode);
  /* A removed file's number may be used again. */
  int truncate = is_new ? O_TRUNC : 0;
  return real_open(path, O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC | truncate, 0644);
}

/* Reads what a file holds, also through a descriptor that only writes. */
static ssize_t read_old(int fd, void *bytes, size_t length, uint64_t offset) {
  ssize_t got = real_pread(fd, bytes, length, (off64_t)offset);
  if (got >= 0 || errno != EBADF) return got;
  char link[64];
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  int reader = real_open(link, O_RDONLY | O_CLOEXEC);
  if (reader < 0) return -1;
  got = real_pread(reader, bytes, length, (off64_t)offset);
  real_close(reader);
  return got;
}

/*
 * Keeps what a change of length bytes at an offset overwrites or cuts off. In the caller's
 * turn. 0, or -1 where it cannot: then the change must not be made.
 */
static int keep_undo(int fd, uint32_t kind, uint64_t offset, size_t length) {
  static unsigned char usual[256 * 1024];
  struct stat64 stat, undo_stat;
  int undo = undo_logs[fd];
  if (control == NULL || !control->keeps_undo || undo_directory == NULL) return 0;
  if (fstat64(fd, &stat) != 0 || fstat64(undo, &undo_stat) != 0) return -1;
  if (undo_stat.st_size == 0) {
    char link[64], head[4 + 4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t size = readlink(link, head + 4, sizeof head - 4);
    if (size < 0) return -1;
    uint32_t path_length = (uint32_t)size;
    memcpy(head, &path_length, 4);
    if (real_write(undo, head, 4 + (size_t)size) < 0) return -1;
  }
  uint64_t old_size = (uint64_t)stat.st_size;
  uint64_t old_length = offset >= old_size ? 0 : old_size - offset;
  if (old_length > length) old_length = length;
  struct undo_record record = {kind, 0, offset, old_size};
  size_t most = sizeof record + old_length;
  unsigned char *bytes = most <= sizeof usual ? usual : malloc(most);
  if (bytes == NULL) return -1;
  ssize_t got = old_length == 0 ? 0 : read_old(fd, bytes + sizeof record, old_length, offset);
  ssize_t written = -1;
  if (got >= 0) {
    record.length = (uint32_t)got;
    memcpy(bytes, &record, sizeof record);
    /* In one write: a record is there whole, or not at all. */
    written = real_write(undo, bytes, sizeof record + (size_t)got);
  }
  if (bytes != usual) free(bytes);
  return written < 0 ? -1 : 0;
}

/* Watches a file that was opened, if it is one to watch; 0, or -1 where its log cannot be kept. */
static int note(int fd, int is_new) {
  struct stat64 stat;
  char link[64], name[4096];
  if (fd < 0 || fd >= max_fds || disk_directory == NULL) return 0;
  watched[fd] = 0;
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  ssize_t length = readlink(link, name, sizeof name - 1);
  size_t prefix = strlen(disk_directory);
  if (length <= (ssize_t)prefix) return 0;
  name[length] = 0;
  int is_memory = length > 4 && strcmp(name + length - 4, "-shm") == 0;
  if (strncmp(name, disk_directory, prefix) != 0 || name[prefix] != '/' || is_memory) return 0;
  if (fstat64(fd, &stat) != 0 || !S_ISREG(stat.st_mode)) return 0;
  undo_logs[fd] = open_undo(stat.st_ino, is_new);
  if (undo_logs[fd] < 0 && undo_directory != NULL) return -1;
  watched[fd] = stat.st_ino;
  if (!is_new) return 0;
  pthread_mutex_lock(&turn);
  int result = keep_undo(fd, undo_create, 0, 0);
  pthread_mutex_unlock(&turn);
  return result;
}

static int opens(int directory, const char *path, int flags, mode_t mode) {
  ready();
  int is_new = 0;
  if (disk_directory != NULL && strncmp(path, disk_directory, strlen(disk_directory)) == 0) {
    is_new = (flags & O_CREAT) && faccessat(directory, path, F_OK, 0) != 0;
    int writes = (flags & O_ACCMODE) != O_RDONLY;
    if (control != NULL && writes && fails(control->open_error, 1000)) return -1;
  }
  int fd = real_openat(directory, path, flags, mode);
  int before = errno;
  if (note(fd, is_new) != 0) {
    close(fd);
    errno = EMFILE;
    return -1;
  }
  errno = before;
  return fd;
}

#define MODE_OF(flags, mode)                    \
  mode_t mode = 0;                              \
  if ((flags) & (O_CREAT | O_TMPFILE)) {        \
    va_list rest;                               \
    va_start(rest, flags);                      \
    mode = (mode_t)va_arg(rest, unsigned int);  \
    va_end(rest);                               \
  }

int open(const char *path, int flags, ...) {
  MODE_OF(flags, mode)
  return opens(AT_FDCWD, path, flags, mode);
}
int open64(const char *path, int flags, ...) {
  MODE_OF(flags, mode)
  return opens(AT_FDCWD, path, flags | O_LARGEFILE, mode);
}
int openat(int directory, const char *path, int flags, ...) {
  MODE_OF(flags, mode)
  return opens(directory, path, flags, mode);
}
int openat64(int directory, const char *path, int flags, ...) {
  MODE_OF(flags, mode)
  return opens(directory, path, flags | O_LARGEFILE, mode);
}

int close(int fd) {
  ready();
  if (is_watched(fd)) {
    watched[fd] = 0;
    if (undo_logs[fd] >= 0) real_close(undo_logs[fd]);
  }
  return real_close(fd);
}

/* One change of a watched file, in turn: `change` is the real call. */
#define IN_TURN(fd, offset, length, change)                                          \
  do {                                                                               \
    if (control != NULL) {                                                           \
      __sync_fetch_and_add(&control->writes, 1);                                     \
      if (fails(control->write_error, control->write_permille)) return -1;           \
    }                                                                                \
    pthread_mutex_lock(&turn);                                                       \
    ssize_t result = keep_undo(fd, undo_write, offset, length) == 0 ? (change) : -1; \
    int error = errno;                                                               \
    pthread_mutex_unlock(&turn);                                                     \
    errno = error;                                                                   \
    return result;                                                                   \
  } while (0)

static uint64_t position(int fd) {
  struct stat64 stat;
  if (fcntl(fd, F_GETFL) & O_APPEND) return fstat64(fd, &stat) == 0 ? (uint64_t)stat.st_size : 0;
  off64_t at = lseek64(fd, 0, SEEK_CUR);
  return at < 0 ? 0 : (uint64_t)at;
}

static size_t total(const struct iovec *parts, int count) {
  size_t sum = 0;
  for (int i = 0; i < count; i++) sum += parts[i].iov_len;
  return sum;
}

ssize_t write(int fd, const void *bytes, size_t length) {
  ready();
  if (!is_watched(fd)) return real_write(fd, bytes, length);
  IN_TURN(fd, position(fd), length, real_write(fd, bytes, length));
}
ssize_t pwrite64(int fd, const void *bytes, size_t length, off64_t offset) {
  ready();
  if (!is_watched(fd)) return real_pwrite(fd, bytes, length, offset);
  IN_TURN(fd, (uint64_t)offset, length, real_pwrite(fd, bytes, length, offset));
}
ssize_t pwrite(int fd, const void *bytes, size_t length, off_t offset) {
  return pwrite64(fd, bytes, length, offset);
}
ssize_t writev(int fd, const struct iovec *parts, int count) {
  ready();
  if (!is_watched(fd)) return real_writev(fd, parts, count);
  IN_TURN(fd, position(fd), total(parts, count), real_writev(fd, parts, count));
}
ssize_t pwritev64(int fd, const struct iovec *parts, int count, off64_t offset) {
  ready();
  if (!is_watched(fd)) return real_pwritev(fd, parts, count, offset);
  IN_TURN(fd, (uint64_t)offset, total(parts, count), real_pwritev(fd, parts, count, offset));
}
ssize_t pwritev(int fd, const struct iovec *parts, int count, off_t offset) {
  return pwritev64(fd, parts, count, offset);
}

ssize_t read(int fd, void *bytes, size_t length) {
  ready();
  if (is_watched(fd) && control != NULL && fails(control->read_error, control->read_permille)) return -1;
  return real_read(fd, bytes, length);
}
ssize_t pread64(int fd, void *bytes, size_t length, off64_t offset) {
  ready();
  if (is_watched(fd) && control != NULL && fails(control->read_error, control->read_permille)) return -1;
  return real_pread(fd, bytes, length, offset);
}
ssize_t pread(int fd, void *bytes, size_t length, off_t offset) {
  return pread64(fd, bytes, length, offset);
}

int ftruncate64(int fd, off64_t size) {
  ready();
  if (!is_watched(fd)) return real_ftruncate(fd, size);
  if (control != NULL && fails(control->write_error, control->write_permille)) return -1;
  pthread_mutex_lock(&turn);
  int result = keep_undo(fd, undo_truncate, (uint64_t)size, SIZE_MAX) == 0 ? real_ftruncate(fd, size) : -1;
  int error = errno;
  pthread_mutex_unlock(&turn);
  errno = error;
  return result;
}
int ftruncate(int fd, off_t size) { return ftruncate64(fd, size); }

int fallocate64(int fd, int mode, off64_t offset, off64_t length) {
  ready();
  if (!is_watched(fd)) return real_fallocate(fd, mode, offset, length);
  IN_TURN(fd, (uint64_t)offset, (size_t)length, real_fallocate(fd, mode, offset, length));
}
int fallocate(int fd, int mode, off_t offset, off_t length) {
  return fallocate64(fd, mode, offset, length);
}

static int syncs(int fd, int (*sync)(int)) {
  ready();
  if (!is_watched(fd)) return sync(fd);
  if (control != NULL) {
    __sync_fetch_and_add(&control->syncs, 1);
    uint32_t delay = control->sync_delay_ms;
    if (delay > 0) {
      struct timespec pause = {delay / 1000, (long)(delay % 1000) * 1000000};
      nanosleep(&pause, NULL);
    }
    if (fails(control->sync_error, control->sync_permille)) return -1;
  }
  pthread_mutex_lock(&turn);
  int result = sync(fd);
  int error = errno;
  if (result == 0 && undo_logs[fd] >= 0 && real_ftruncate(undo_logs[fd], 0) != 0) abort();
  pthread_mutex_unlock(&turn);
  errno = error;
  return result;
}
int fsync(int fd) {
  ready();
  return syncs(fd, real_fsync);
}
int fdatasync(int fd) {
  ready();
  return syncs(fd, real_fdatasync);
}

/* The wall clock; the monotonic one is left alone. */
int clock_gettime(clockid_t id, struct timespec *time) {
  ready();
  int result = real_clock_gettime(id, time);
  if (result == 0 && control != NULL && (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE)) {
    int64_t offset = control->clock_offset_ms;
    time->tv_sec += offset / 1000;
  }
  return result;
}
int gettimeofday(struct timeval *time, void *zone) {
  ready();
  int result = real_gettimeofday(time, zone);
  if (result == 0 && control != NULL) time->tv_sec += control->clock_offset_ms / 1000;
  return result;
}
time_t time(time_t *out) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  if (out != NULL) *out = now.tv_sec;
  return now.tv_sec;
}
