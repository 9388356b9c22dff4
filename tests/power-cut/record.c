/*
 * Records what a process does to the files below one directory, so that the states which a power
 * cut may leave behind can be rebuilt. Loaded with LD_PRELOAD; two variables say what to do:
 *
 *   LIANXI_RECORD_ROOT  directory that is watched, absolute, without links in it
 *   LIANXI_RECORD_LOG   file that the events are added to; several processes may share it
 *
 * An event is one write to the log: u32 length of what follows, u8 kind, then its fields. Numbers
 * are in the byte order of the machine. tests/src/power_cut.rs reads them.
 *
 * A change is made and recorded under one lock, so that the log has the order of the changes in
 * each process. A sync is recorded when it begins and when it has ended, outside of the lock:
 * whatever was written before its beginning is safe once it has ended, and no later write is.
 *
 * What would make the log untrue is recorded as unsupported, and the reader gives up: shared
 * writable mappings, holes, renames across the border. Copies within the kernel are refused with the error on
 * which callers fall back to reading and writing.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum kind {
    CREATE = 1,      /* u64 inode, path */
    MAKE_DIR = 2,    /* u64 inode, path */
    WRITE = 3,       /* u64 inode, u64 offset, bytes */
    SET_LENGTH = 4,  /* u64 inode, u64 length */
    RENAME = 5,      /* u32 length of the first path, path, path */
    REMOVE = 6,      /* path */
    SYNC_BEGUN = 7,  /* u64 number, u64 inode, u8 1: fsync, 2: fdatasync */
    SYNC_ENDED = 8,  /* u64 number */
    UNSUPPORTED = 9, /* text */
    LINK = 11,       /* u32 length of the first path, path, path; 10 is the tests' own */
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char root[PATH_MAX];
static size_t root_length;
static int log_fd = -1;
static dev_t root_device;
static uint64_t sync_number;

/* Inodes below the root that this process has opened, as an open-addressed set. */
#define SLOTS 65536
static uint64_t known[SLOTS];

#define NEXT(name) \
    static __typeof__(&name) next; \
    if (!next) next = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

__attribute__((constructor)) static void begin(void) {
    const char *directory = getenv("LIANXI_RECORD_ROOT");
    const char *log = getenv("LIANXI_RECORD_LOG");
    struct stat found;
    if (!directory || !log || strlen(directory) >= sizeof root || stat(directory, &found)) return;
    strcpy(root, directory);
    root_length = strlen(root);
    root_device = found.st_dev;
    sync_number = (uint64_t)getpid() << 32;
    int fd = (int)syscall(SYS_openat, AT_FDCWD, log, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
    /* Out of the way of programs that count on low numbers. */
    if (fd >= 0) {
        log_fd = fcntl(fd, F_DUPFD_CLOEXEC, 900);
        syscall(SYS_close, fd);
    }
}

static int is_below(const char *path) {
    return log_fd >= 0 && strncmp(path, root, root_length) == 0
        && (path[root_length] == '/' || path[root_length] == 0);
}

static void learn(uint64_t inode) {
    size_t slot = (inode * 0x9E3779B97F4A7C15ull) >> 48;
    while (known[slot] && known[slot] != inode) slot = (slot + 1) % SLOTS;
    known[slot] = inode;
}

static int is_known(uint64_t inode) {
    size_t slot = (inode * 0x9E3779B97F4A7C15ull) >> 48;
    while (known[slot] && known[slot] != inode) slot = (slot + 1) % SLOTS;
    return known[slot] == inode;
}

/* The inode behind `fd` if it is watched, else 0. */
static uint64_t watched(int fd) {
    struct stat found;
    if (log_fd < 0 || fd == log_fd || fstat(fd, &found) || found.st_dev != root_device) return 0;
    if (!S_ISREG(found.st_mode) && !S_ISDIR(found.st_mode)) return 0;
    return is_known(found.st_ino) ? found.st_ino : 0;
}

static void record(enum kind kind, const struct iovec *fields, int count) {
    struct iovec all[8];
    uint32_t length = 1;
    uint8_t byte = (uint8_t)kind;
    for (int i = 0; i < count; i++) {
        all[i + 2] = fields[i];
        length += (uint32_t)fields[i].iov_len;
    }
    all[0] = (struct iovec){&length, sizeof length};
    all[1] = (struct iovec){&byte, 1};
    /* On a regular file opened for appending this is one step, also beside other processes. */
    ssize_t written = syscall(SYS_writev, log_fd, all, count + 2);
    if (written != (ssize_t)length + 4) {
        static const char text[] = "the record of writes cannot be written\n";
        syscall(SYS_write, 2, text, sizeof text - 1);
        abort();
    }
}

static void record_path(enum kind kind, uint64_t inode, const char *path) {
    struct iovec fields[] = {{&inode, 8}, {(void *)path, strlen(path)}};
    if (kind == REMOVE) record(kind, fields + 1, 1);
    else record(kind, fields, 2);
}

static void unsupported(const char *text) {
    struct iovec field = {(void *)text, strlen(text)};
    record(UNSUPPORTED, &field, 1);
}

/* The path that `fd` stands for; 0 if it has none. */
static int path_of(int fd, char *path) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = syscall(SYS_readlinkat, AT_FDCWD, link, path, PATH_MAX - 1);
    if (length <= 0) return 0;
    path[length] = 0;
    return path[0] == '/';
}

/* `name` seen from `directory` as an absolute path, its last part not followed; 0 if there is no
 * directory that it could be in. */
static int absolute(int directory, const char *name, char *path) {
    char joined[2 * PATH_MAX], parent[PATH_MAX];
    int kept = errno;
    if (name[0] == '/' || directory == AT_FDCWD) {
        snprintf(joined, sizeof joined, "%s", name);
    } else {
        char base[PATH_MAX];
        if (!path_of(directory, base)) return 0;
        snprintf(joined, sizeof joined, "%s/%s", base, name);
    }
    size_t length = strlen(joined);
    while (length > 1 && joined[length - 1] == '/') joined[--length] = 0;
    char *last = strrchr(joined, '/');
    const char *leaf = last ? last + 1 : joined;
    char *found;
    if (!last) {
        found = realpath(".", parent);
    } else if (last == joined) {
        found = strcpy(parent, "");
    } else {
        *last = 0;
        found = realpath(joined, parent);
    }
    errno = kept;
    return found && snprintf(path, PATH_MAX, "%s/%s", parent, leaf) < PATH_MAX;
}

static int exists(int directory, const char *name) {
    struct stat found;
    int kept = errno;
    int there = fstatat(directory, name, &found, 0) == 0;
    errno = kept;
    return there;
}

static int open_recorded(int directory, const char *name, int flags, mode_t mode) {
    if (log_fd < 0) return (int)syscall(SYS_openat, directory, name, flags, mode);
    pthread_mutex_lock(&lock);
    int was_there = !(flags & O_CREAT) || exists(directory, name);
    int fd = (int)syscall(SYS_openat, directory, name, flags, mode);
    int kept = errno;
    char path[PATH_MAX];
    struct stat found;
    if (fd >= 0 && path_of(fd, path) && is_below(path) && !fstat(fd, &found)) {
        if ((flags & O_TMPFILE) == O_TMPFILE) unsupported("a file without a name");
        learn(found.st_ino);
        if (!was_there) record_path(CREATE, found.st_ino, path);
        if (was_there && (flags & O_TRUNC) && S_ISREG(found.st_mode)) {
            uint64_t fields[] = {found.st_ino, 0};
            struct iovec field = {fields, sizeof fields};
            record(SET_LENGTH, &field, 1);
        }
    }
    pthread_mutex_unlock(&lock);
    errno = kept;
    return fd;
}

static mode_t mode_of(int flags, va_list arguments) {
    return flags & (O_CREAT | __O_TMPFILE) ? va_arg(arguments, mode_t) : 0;
}

#define OPEN(name, type) \
    int name(const char *path, int flags, ...) { \
        va_list arguments; \
        va_start(arguments, flags); \
        mode_t mode = mode_of(flags, arguments); \
        va_end(arguments); \
        return open_recorded(AT_FDCWD, path, flags | type, mode); \
    }
OPEN(open, 0)
OPEN(open64, O_LARGEFILE)

#define OPEN_AT(name, type) \
    int name(int directory, const char *path, int flags, ...) { \
        va_list arguments; \
        va_start(arguments, flags); \
        mode_t mode = mode_of(flags, arguments); \
        va_end(arguments); \
        return open_recorded(directory, path, flags | type, mode); \
    }
OPEN_AT(openat, 0)
OPEN_AT(openat64, O_LARGEFILE)

int creat(const char *path, mode_t mode) {
    return open_recorded(AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC, mode);
}

static void record_write(uint64_t inode, uint64_t offset, const struct iovec *parts, int count, size_t length) {
    uint64_t head[] = {inode, offset};
    char *joined = malloc(length ? length : 1);
    size_t filled = 0;
    for (int i = 0; i < count && filled < length; i++) {
        size_t taken = parts[i].iov_len < length - filled ? parts[i].iov_len : length - filled;
        memcpy(joined + filled, parts[i].iov_base, taken);
        filled += taken;
    }
    struct iovec fields[] = {{head, sizeof head}, {joined, length}};
    record(WRITE, fields, 2);
    free(joined);
}

/* Writes `parts` at `offset`, or at the file's own place if it is negative. */
static ssize_t write_recorded(int fd, const struct iovec *parts, int count, off_t offset) {
    uint64_t inode = watched(fd);
    if (!inode) {
        return offset < 0 ? syscall(SYS_writev, fd, parts, count)
                          : syscall(SYS_pwritev, fd, parts, count, offset, 0);
    }
    pthread_mutex_lock(&lock);
    off_t place = offset;
    struct stat found;
    if (fcntl(fd, F_GETFL) & O_APPEND) place = fstat(fd, &found) ? 0 : found.st_size;
    else if (offset < 0) place = lseek(fd, 0, SEEK_CUR);
    ssize_t written = offset < 0 ? syscall(SYS_writev, fd, parts, count)
                                 : syscall(SYS_pwritev, fd, parts, count, offset, 0);
    int kept = errno;
    if (written > 0) record_write(inode, (uint64_t)place, parts, count, (size_t)written);
    pthread_mutex_unlock(&lock);
    errno = kept;
    return written;
}

ssize_t write(int fd, const void *bytes, size_t length) {
    struct iovec part = {(void *)bytes, length};
    return write_recorded(fd, &part, 1, -1);
}

ssize_t writev(int fd, const struct iovec *parts, int count) {
    return write_recorded(fd, parts, count, -1);
}

#define WRITE_AT(name, type) \
    ssize_t name(int fd, const void *bytes, size_t length, type offset) { \
        struct iovec part = {(void *)bytes, length}; \
        return write_recorded(fd, &part, 1, offset); \
    }
WRITE_AT(pwrite, off_t)
WRITE_AT(pwrite64, off64_t)

#define WRITE_PARTS_AT(name, type) \
    ssize_t name(int fd, const struct iovec *parts, int count, type offset) { \
        return write_recorded(fd, parts, count, offset); \
    }
WRITE_PARTS_AT(pwritev, off_t)
WRITE_PARTS_AT(pwritev64, off64_t)

static int set_length_recorded(int fd, off_t length) {
    uint64_t inode = watched(fd);
    if (!inode) return (int)syscall(SYS_ftruncate, fd, length);
    pthread_mutex_lock(&lock);
    int result = (int)syscall(SYS_ftruncate, fd, length);
    int kept = errno;
    if (!result) {
        uint64_t fields[] = {inode, (uint64_t)length};
        struct iovec field = {fields, sizeof fields};
        record(SET_LENGTH, &field, 1);
    }
    pthread_mutex_unlock(&lock);
    errno = kept;
    return result;
}

int ftruncate(int fd, off_t length) { return set_length_recorded(fd, length); }
int ftruncate64(int fd, off64_t length) { return set_length_recorded(fd, length); }

static int sync_recorded(int fd, long call, uint8_t how) {
    uint64_t inode = watched(fd);
    if (!inode) return (int)syscall(call, fd);
    pthread_mutex_lock(&lock);
    uint64_t number = ++sync_number;
    struct iovec begun[] = {{&number, 8}, {&inode, 8}, {&how, 1}};
    record(SYNC_BEGUN, begun, 3);
    pthread_mutex_unlock(&lock);
    int result = (int)syscall(call, fd);
    int kept = errno;
    if (!result) {
        pthread_mutex_lock(&lock);
        struct iovec ended = {&number, 8};
        record(SYNC_ENDED, &ended, 1);
        pthread_mutex_unlock(&lock);
    }
    errno = kept;
    return result;
}

int fsync(int fd) { return sync_recorded(fd, SYS_fsync, 1); }
int fdatasync(int fd) { return sync_recorded(fd, SYS_fdatasync, 2); }

static void record_paths(enum kind kind, const char *from, const char *to) {
    uint32_t length = (uint32_t)strlen(from);
    struct iovec fields[] = {{&length, 4}, {(void *)from, length}, {(void *)to, strlen(to)}};
    record(kind, fields, 3);
}

static int rename_recorded(int from_directory, const char *from, int to_directory, const char *to, unsigned flags) {
    char old[PATH_MAX], new[PATH_MAX];
    int resolved = log_fd >= 0 && absolute(from_directory, from, old) && absolute(to_directory, to, new);
    pthread_mutex_lock(&lock);
    int result = (int)syscall(SYS_renameat2, from_directory, from, to_directory, to, flags);
    int kept = errno;
    if (!result && resolved && (is_below(old) || is_below(new))) {
        if (!is_below(old) || !is_below(new) || (flags & ~1u)) unsupported("a rename across the border");
        record_paths(RENAME, old, new);
    }
    pthread_mutex_unlock(&lock);
    errno = kept;
    return result;
}

int rename(const char *from, const char *to) {
    return rename_recorded(AT_FDCWD, from, AT_FDCWD, to, 0);
}
int renameat(int from_directory, const char *from, int to_directory, const char *to) {
    return rename_recorded(from_directory, from, to_directory, to, 0);
}
int renameat2(int from_directory, const char *from, int to_directory, const char *to, unsigned flags) {
    return rename_recorded(from_directory, from, to_directory, to, flags);
}

static int remove_recorded(int directory, const char *name, int flags) {
    char path[PATH_MAX];
    int resolved = log_fd >= 0 && absolute(directory, name, path);
    pthread_mutex_lock(&lock);
    int result = (int)syscall(SYS_unlinkat, directory, name, flags);
    int kept = errno;
    if (!result && resolved && is_below(path)) record_path(REMOVE, 0, path);
    pthread_mutex_unlock(&lock);
    errno = kept;
    return result;
}

int unlink(const char *path) { return remove_recorded(AT_FDCWD, path, 0); }
int rmdir(const char *path) { return remove_recorded(AT_FDCWD, path, AT_REMOVEDIR); }
int unlinkat(int directory, const char *path, int flags) {
    return remove_recorded(directory, path, flags);
}

static int make_dir_recorded(int directory, const char *name, mode_t mode) {
    char path[PATH_MAX];
    int resolved = log_fd >= 0 && absolute(directory, name, path);
    pthread_mutex_lock(&lock);
    int result = (int)syscall(SYS_mkdirat, directory, name, mode);
    int kept = errno;
    struct stat found;
    if (!result && resolved && is_below(path) && !stat(path, &found)) {
        learn(found.st_ino);
        record_path(MAKE_DIR, found.st_ino, path);
    }
    pthread_mutex_unlock(&lock);
    errno = kept;
    return result;
}

int mkdir(const char *path, mode_t mode) { return make_dir_recorded(AT_FDCWD, path, mode); }
int mkdirat(int directory, const char *path, mode_t mode) {
    return make_dir_recorded(directory, path, mode);
}

static int link_recorded(int from_directory, const char *from, int to_directory, const char *to, int flags) {
    char old[PATH_MAX], new[PATH_MAX];
    int resolved = log_fd >= 0 && absolute(from_directory, from, old) && absolute(to_directory, to, new);
    pthread_mutex_lock(&lock);
    int result = (int)syscall(SYS_linkat, from_directory, from, to_directory, to, flags);
    int kept = errno;
    if (!result && resolved && is_below(new)) {
        if (!is_below(old) || (flags & AT_SYMLINK_FOLLOW)) unsupported("a link across the border");
        record_paths(LINK, old, new);
    }
    pthread_mutex_unlock(&lock);
    errno = kept;
    return result;
}

int link(const char *from, const char *to) {
    return link_recorded(AT_FDCWD, from, AT_FDCWD, to, 0);
}
int linkat(int from_directory, const char *from, int to_directory, const char *to, int flags) {
    return link_recorded(from_directory, from, to_directory, to, flags);
}

static void *map_recorded(void *address, size_t length, int protection, int flags, int fd, off_t offset) {
    NEXT(mmap);
    if (fd >= 0 && (flags & MAP_SHARED) && (protection & PROT_WRITE) && watched(fd)) {
        unsupported("a shared writable mapping");
    }
    return next(address, length, protection, flags, fd, offset);
}

void *mmap(void *address, size_t length, int protection, int flags, int fd, off_t offset) {
    return map_recorded(address, length, protection, flags, fd, offset);
}
void *mmap64(void *address, size_t length, int protection, int flags, int fd, off64_t offset) {
    return map_recorded(address, length, protection, flags, fd, offset);
}

static int allocate_recorded(int fd, int mode, off_t offset, off_t length) {
    if (watched(fd)) unsupported("fallocate");
    return (int)syscall(SYS_fallocate, fd, mode, offset, length);
}

int fallocate(int fd, int mode, off_t offset, off_t length) {
    return allocate_recorded(fd, mode, offset, length);
}
int fallocate64(int fd, int mode, off64_t offset, off64_t length) {
    return allocate_recorded(fd, mode, offset, length);
}

ssize_t copy_file_range(int in, off64_t *in_offset, int out, off64_t *out_offset, size_t length, unsigned flags) {
    if (watched(out)) {
        errno = EXDEV;
        return -1;
    }
    return syscall(SYS_copy_file_range, in, in_offset, out, out_offset, length, flags);
}

static ssize_t send_recorded(int out, int in, off_t *offset, size_t length) {
    if (watched(out)) {
        errno = EINVAL;
        return -1;
    }
    return syscall(SYS_sendfile, out, in, offset, length);
}

ssize_t sendfile(int out, int in, off_t *offset, size_t length) {
    return send_recorded(out, in, offset, length);
}
ssize_t sendfile64(int out, int in, off64_t *offset, size_t length) {
    return send_recorded(out, in, offset, length);
}
