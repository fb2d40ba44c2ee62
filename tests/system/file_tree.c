/* Makes trees of odd files, changes them, and tells what the kernel shows of a tree.
 *
 *   file_tree grow DIRECTORY SEED COUNT HUGE   files, links, devices, ... some changed, some gone
 *   file_tree list DIRECTORY OUTPUT            a line for every path, to a file or a block device
 *   file_tree churn DIRECTORY SEED SECONDS [OUTPUT]
 *                                              writes, renames, removes and fsyncs all the time;
 *                                              tells OUTPUT each path that is safe, and its hash
 *
 * A line of a list: path, type, mode, owner, group, links, size, blocks * 512, times of change of
 * content, access, change of state, birth (in ns), device, inode, xattrs, target, data, hash.
 * Fields are separated by tabs, bytes are in hexadecimal, `-` is nothing. After the last: `END`.
 *
 * The hash of a file is the SHA-256 of its blocks of 64 KiB that are not all zeros, each after its
 * number in 8 bytes: so a hole of a terabyte costs nothing, wherever it is seen as one.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <time.h>
#include <unistd.h>

#define BLOCK 65536
#define READ_WHOLE_MAX (16 << 20)
#define FILE_MAX (512 << 10)
#define DEPTH 130

static void fail(const char *what)
{
    perror(what);
    exit(1);
}

/* ------------------------------------------------------------------------------- chance */

static uint64_t state;

static uint64_t next(void)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state;
}

static uint64_t draw(uint64_t below)
{
    return (next() >> 11) % below;
}

static unsigned char noise[FILE_MAX];

/* Half of what is written can be compressed. */
static void make_noise(size_t size)
{
    int text = draw(2);
    for (size_t i = 0; i < size; i += 8) {
        uint64_t value = next();
        if (text)
            value = (value & 0x0303030303030303) | 0x6060606060606060;
        memcpy(noise + i, &value, size - i < 8 ? size - i : 8);
    }
}

/* ------------------------------------------------------------------------------ SHA-256 */

struct sha {
    uint32_t h[8];
    unsigned char part[64];
    uint64_t length;
};

static uint32_t constants[64];

static uint32_t turned(uint32_t x, int by)
{
    return x >> by | x << (32 - by);
}

/* The constants are the fractions of the square and cube roots of the first primes. */
static void sha_begin(struct sha *sha)
{
    static const uint32_t start[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                      0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
    memcpy(sha->h, start, sizeof start);
    sha->length = 0;
    if (constants[0])
        return;
    for (int prime = 2, i = 0; i < 64; prime++) {
        int divisor = 2;
        while (prime % divisor)
            divisor++;
        if (divisor < prime)
            continue;
        /* The largest x with x^3 <= prime * 2^96. */
        unsigned __int128 root = 0;
        for (int bit = 35; bit >= 0; bit--) {
            unsigned __int128 x = root | (unsigned __int128)1 << bit;
            if (x * x * x <= (unsigned __int128)prime << 96)
                root = x;
        }
        constants[i++] = (uint32_t)root;
    }
}

static void sha_block(struct sha *sha, const unsigned char *data)
{
    uint32_t w[64], v[8];
    for (int i = 0; i < 16; i++)
        w[i] = (uint32_t)data[4 * i] << 24 | data[4 * i + 1] << 16 | data[4 * i + 2] << 8 |
               data[4 * i + 3];
    for (int i = 16; i < 64; i++) {
        uint32_t a = w[i - 15], b = w[i - 2];
        w[i] = w[i - 16] + (turned(a, 7) ^ turned(a, 18) ^ a >> 3) + w[i - 7] +
               (turned(b, 17) ^ turned(b, 19) ^ b >> 10);
    }
    memcpy(v, sha->h, sizeof v);
    for (int i = 0; i < 64; i++) {
        uint32_t one = v[7] + (turned(v[4], 6) ^ turned(v[4], 11) ^ turned(v[4], 25)) +
                       ((v[4] & v[5]) ^ (~v[4] & v[6])) + constants[i] + w[i];
        uint32_t two = (turned(v[0], 2) ^ turned(v[0], 13) ^ turned(v[0], 22)) +
                       ((v[0] & v[1]) ^ (v[0] & v[2]) ^ (v[1] & v[2]));
        memmove(v + 1, v, 7 * sizeof *v);
        v[4] += one;
        v[0] = one + two;
    }
    for (int i = 0; i < 8; i++)
        sha->h[i] += v[i];
}

static void sha_add(struct sha *sha, const void *data, size_t size)
{
    const unsigned char *from = data;
    size_t held = sha->length % 64;
    sha->length += size;
    while (size) {
        if (!held && size >= 64) {
            sha_block(sha, from);
            from += 64;
            size -= 64;
            continue;
        }
        size_t taken = 64 - held < size ? 64 - held : size;
        memcpy(sha->part + held, from, taken);
        from += taken;
        size -= taken;
        held += taken;
        if (held == 64) {
            sha_block(sha, sha->part);
            held = 0;
        }
    }
}

static void sha_print(struct sha *sha, FILE *out)
{
    uint64_t bits = sha->length * 8;
    sha_add(sha, "\x80", 1);
    while (sha->length % 64 != 56)
        sha_add(sha, "", 1);
    bits = __builtin_bswap64(bits);
    sha_add(sha, &bits, 8);
    for (int i = 0; i < 8; i++)
        fprintf(out, "%08x", sha->h[i]);
}

/* --------------------------------------------------------------------------------- list */

static void print_hex(const void *data, size_t size, FILE *out)
{
    static const char digits[] = "0123456789abcdef";
    for (size_t i = 0; i < size; i++) {
        unsigned char byte = ((const unsigned char *)data)[i];
        putc(digits[byte >> 4], out);
        putc(digits[byte & 15], out);
    }
}

static void print_time(struct statx_timestamp at, FILE *out)
{
    /* Not seconds * 10^9: that leaves 64 bits in the year 2262. */
    __int128 ns = (__int128)at.tv_sec * 1000000000 + at.tv_nsec;
    char text[48], *end = text + sizeof text - 1;
    unsigned __int128 rest = ns < 0 ? -ns : ns;
    *end = 0;
    do
        *--end = '0' + (int)(rest % 10);
    while (rest /= 10);
    if (ns < 0)
        *--end = '-';
    fprintf(out, "\t%s", end);
}

static void print_xattrs(const char *name, FILE *out)
{
    static char names[65536], value[65536];
    ssize_t size = llistxattr(name, names, sizeof names);
    putc('\t', out);
    if (size <= 0)
        putc('-', out);
    for (char *at = names; at < names + size; at += strlen(at) + 1) {
        ssize_t length = lgetxattr(name, at, value, sizeof value);
        if (length < 0)
            fail(at);
        struct sha sha;
        sha_begin(&sha);
        sha_add(&sha, value, length);
        print_hex(at, strlen(at), out);
        putc('=', out);
        sha_print(&sha, out);
        putc(',', out);
    }
}

static size_t read_at(int file, void *into, size_t size, off_t at)
{
    size_t done = 0;
    while (done < size) {
        ssize_t part = pread(file, (char *)into + done, size - done, at + done);
        if (part < 0)
            fail("pread");
        if (!part)
            break;
        done += part;
    }
    return done;
}

static void print_content(int file, off_t size, FILE *out)
{
    static unsigned char block[BLOCK];
    static const unsigned char zeros[BLOCK];
    struct sha sha;
    sha_begin(&sha);
    for (off_t at = 0; at < size; at += BLOCK) {
        if (size > READ_WHOLE_MAX) {
            off_t data = lseek(file, at, SEEK_DATA);
            if (data < 0)
                break;
            at = data / BLOCK * BLOCK;
        }
        size_t length = read_at(file, block, BLOCK, at);
        if (length != (size_t)(size - at < BLOCK ? size - at : BLOCK))
            fail("short file");
        if (memcmp(block, zeros, length)) {
            sha_add(&sha, &(uint64_t){at / BLOCK}, 8);
            sha_add(&sha, block, length);
        }
    }
    sha_print(&sha, out);
}

static void print_data(int file, off_t size, FILE *out)
{
    off_t start = 0, end = 0;
    putc('\t', out);
    while (end < size && (start = lseek(file, end, SEEK_DATA)) >= 0) {
        end = lseek(file, start, SEEK_HOLE);
        if (end <= start)
            fail("SEEK_HOLE");
        fprintf(out, "%lld-%lld,", (long long)start, (long long)end);
    }
    if (!end)
        putc('-', out);
}

static void print_device(const struct statx *seen, FILE *out)
{
    int has = S_ISCHR(seen->stx_mode) || S_ISBLK(seen->stx_mode);
    fprintf(out, "\t%u:%u", has ? seen->stx_rdev_major : 0, has ? seen->stx_rdev_minor : 0);
}

static void print_entry(const char *path, size_t length, const char *name, FILE *out)
{
    static const char types[] = "?fc?d?b?-?l?s???";
    static char target[65536];
    struct statx seen;
    if (statx(AT_FDCWD, name, AT_SYMLINK_NOFOLLOW, STATX_BASIC_STATS | STATX_BTIME, &seen))
        fail(name);
    if (length)
        print_hex(path, length, out);
    else
        putc('-', out);
    fprintf(out, "\t%c\t%o\t%u\t%u\t%u\t%llu\t%llu", types[seen.stx_mode >> 12],
            seen.stx_mode & 07777, seen.stx_uid, seen.stx_gid, seen.stx_nlink,
            (unsigned long long)seen.stx_size, (unsigned long long)seen.stx_blocks * 512);
    print_time(seen.stx_mtime, out);
    print_time(seen.stx_atime, out);
    print_time(seen.stx_ctime, out);
    if (seen.stx_mask & STATX_BTIME)
        print_time(seen.stx_btime, out);
    else
        fputs("\t-", out);
    print_device(&seen, out);
    fprintf(out, "\t%llu", (unsigned long long)seen.stx_ino);
    print_xattrs(name, out);
    putc('\t', out);
    ssize_t size = S_ISLNK(seen.stx_mode) ? readlink(name, target, sizeof target) : 0;
    if (size < 0)
        fail(name);
    print_hex(size ? target : "", size, out);
    if (!size)
        putc('-', out);
    if (S_ISREG(seen.stx_mode)) {
        int file = open(name, O_RDONLY | O_NOFOLLOW);
        if (file < 0)
            fail(name);
        /* First where data is: room set aside counts as data while it is in the cache. */
        print_data(file, seen.stx_size, out);
        putc('\t', out);
        print_content(file, seen.stx_size, out);
        putc('\n', out);
        posix_fadvise(file, 0, 0, POSIX_FADV_DONTNEED);
        close(file);
    } else {
        fputs("\t-\t-\n", out);
    }
}

/* Everything below the working directory, whose path is the first `length` bytes. */
static void list(char **path, size_t length, FILE *out)
{
    int here = open(".", O_RDONLY | O_DIRECTORY);
    DIR *names = here < 0 ? NULL : fdopendir(here);
    if (!names)
        fail("opendir");
    for (struct dirent *entry; errno = 0, (entry = readdir(names));) {
        if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, ".."))
            continue;
        size_t more = strlen(entry->d_name);
        *path = realloc(*path, length + more + 2);
        (*path)[length] = '/';
        memcpy(*path + length + 1, entry->d_name, more + 1);
        print_entry(*path, length + 1 + more, entry->d_name, out);
        struct stat seen;
        if (lstat(entry->d_name, &seen))
            fail(entry->d_name);
        if (S_ISDIR(seen.st_mode)) {
            if (chdir(entry->d_name))
                fail(entry->d_name);
            list(path, length + 1 + more, out);
            if (fchdir(here))
                fail("fchdir");
        }
    }
    if (errno)
        fail("readdir");
    closedir(names);
}

static void list_to(const char *directory, const char *output)
{
    FILE *out = fopen(output, "w");
    char *path = malloc(1);
    if (!out || chdir(directory))
        fail(output);
    setvbuf(out, NULL, _IOFBF, 1 << 20);
    print_entry("", 0, ".", out);
    list(&path, 0, out);
    fputs("END\n", out);
    if (fflush(out) || fsync(fileno(out)) || fclose(out))
        fail(output);
}

/* --------------------------------------------------------------------------------- grow */

enum { FILES, DIRECTORIES, SPARSE, ALLOCATED, HARD, SYMLINKS, NODES, XATTRS, ACLS, TIMES, OWNERS,
       RENAMED, REMOVED, CHANGED, LARGE, CJK, NEWLINE, LONGEST, NOT_UTF8, KINDS };
static const char *const kinds[KINDS] = {
    "files", "directories", "sparse", "allocated", "hard", "symlinks", "nodes", "xattrs", "acls",
    "times", "owners", "renamed", "removed", "changed", "large", "cjk", "newline", "longest",
    "not-utf8"};
static unsigned long made[KINDS];

static char **files, **directories;
static size_t file_count, directory_count;
/* One file of so many goes to the largest directory: FAT looks through all of it every time. */
static unsigned spread = 3;

static char *chinese(char *at)
{
    unsigned point = 0x4e00 + draw(0x5000);
    *at++ = 0xe0 | point >> 12;
    *at++ = 0x80 | (point >> 6 & 63);
    *at++ = 0x80 | (point & 63);
    *at = 0;
    return at;
}

/* Write a name that no other has; return what is odd in it. */
static int odd_name(char *name, unsigned number)
{
    static const char *const plain[] = {
        "%u", "file %u", "ReadMe-%u.TXT", "  %u", ".%u", "-rf %u", "\xf0\x9f\x98\x80%u",
        "e\xcc\x81%u", "\"quoted\" '%u'", "back\\slash%u", "\x01\x7f\t%u", "%u.", "%u ", "%u~1.doc",
        "*?<>|:%u", "$(rm) `%u` ;&", "\xc3\x84rger %u.text", "CON.%u", "%u,+=[]"};
    char *at;
    switch (draw(12)) {
    case 0:
    case 1:
        at = name + sprintf(name, "%u", number);
        for (int i = draw(30) + 1; i; i--)
            at = chinese(at);
        return CJK;
    case 2:
        sprintf(name, "new\nline\r\n%u", number);
        return NEWLINE;
    case 3:
        memset(name, 'x', 255);
        name[255] = 0;
        memcpy(name, name + 255 - sprintf(name + 240, "%015u", number), 15);
        return LONGEST;
    case 4:
        /* The longest in bytes (Linux) or in characters (Windows). */
        at = name + sprintf(name, "%06u", number);
        for (int i = number % 2 ? 83 : 249; i; i--)
            at = chinese(at);
        return LONGEST;
    case 5:
        sprintf(name, "\xff\xfe%u\x80", number);
        return NOT_UTF8;
    default:
        sprintf(name, plain[draw(sizeof plain / sizeof *plain)], number);
        return -1;
    }
}

static char *join(const char *parent, const char *name)
{
    char *path = malloc(strlen(parent) + strlen(name) + 2);
    sprintf(path, "%s/%s", parent, name);
    return path;
}

static const char *some_directory(void)
{
    return directories[draw(spread) ? draw(directory_count) : 1];
}

static int refused(void)
{
    return errno == EINVAL || errno == EILSEQ || errno == ENAMETOOLONG || errno == EIO ||
           errno == EPERM || errno == EOPNOTSUPP;
}

/* Make a node with an odd name, or a plain one where that is refused. */
static char *place(unsigned number, int (*make)(const char *), int kind)
{
    char name[1024];
    const char *parent = some_directory();
    int odd = odd_name(name, number);
    char *path = join(parent, name);
    int done = make(path);
    if (done && (errno == EEXIST || refused())) {
        free(path);
        sprintf(name, "plain %u", number);
        path = join(parent, name);
        odd = -1;
        done = make(path);
    }
    if (done) {
        if (!refused())
            fail(path);
        free(path);
        return NULL;
    }
    made[kind]++;
    if (odd >= 0)
        made[odd]++;
    return path;
}

static int open_new(const char *path)
{
    return open(path, O_CREAT | O_EXCL | O_WRONLY, 0644);
}

static void write_at(int file, const void *data, size_t size, off_t at)
{
    while (size) {
        ssize_t done = pwrite(file, data, size, at);
        if (done <= 0)
            fail("pwrite");
        data = (const char *)data + done;
        size -= done;
        at += done;
    }
}

static size_t some_size(void)
{
    unsigned kind = draw(100);
    if (kind < 4)
        return 0;
    if (kind < 35)
        return draw(200);
    if (kind < 78)
        return draw(4097);
    if (kind < 98)
        return draw(24 << 10);
    return kind == 98 ? draw(128 << 10) : draw(FILE_MAX);
}

static int make_file(const char *path)
{
    int file = open_new(path);
    if (file < 0)
        return -1;
    size_t size = some_size();
    make_noise(size);
    write_at(file, noise, size, 0);
    close(file);
    return 0;
}

static int make_sparse(const char *path)
{
    int file = open_new(path);
    if (file < 0)
        return -1;
    off_t span = 16 << (10 + draw(5));
    make_noise(8192);
    for (int i = draw(5); i >= 0; i--)
        write_at(file, noise, 1 + draw(8192), draw(span));
    if (draw(2) && ftruncate(file, span + draw(9000)))
        fail("ftruncate");
    if (!draw(3))
        fallocate(file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, draw(span), draw(20000) + 1);
    close(file);
    return 0;
}

/* Room that was set aside, inside and behind the end, some of it written later. */
static int make_allocated(const char *path)
{
    int file = open_new(path);
    if (file < 0)
        return -1;
    off_t span = 8192 + draw(120000);
    make_noise(8192);
    if (!fallocate(file, draw(2) ? FALLOC_FL_KEEP_SIZE : 0, 0, span))
        made[ALLOCATED]++;
    for (int i = draw(4); i; i--)
        write_at(file, noise, 1 + draw(8192), draw(span));
    if (!draw(3))
        fsync(file);
    if (!draw(3))
        fallocate(file, FALLOC_FL_ZERO_RANGE, draw(span), 1 + draw(30000));
    close(file);
    return 0;
}

/* Every second block, so that its map is a tree. */
static int make_pieces(const char *path)
{
    int file = open_new(path);
    if (file < 0)
        return -1;
    make_noise(1024);
    for (int i = 0; i < 600; i++)
        write_at(file, noise, 1024, i * 8192);
    close(file);
    return 0;
}

static int make_huge(const char *path)
{
    int file = open_new(path);
    if (file < 0)
        return -1;
    if (ftruncate(file, (off_t)1 << 40))
        fail(path);
    make_noise(70000);
    for (int i = 0; i < 12; i++)
        write_at(file, noise, 1 + draw(70000), (off_t)(draw((uint64_t)1 << 39)));
    write_at(file, noise, 5, ((off_t)1 << 40) - 5);
    close(file);
    return 0;
}

static int make_directory(const char *path)
{
    return mkdir(path, 0755);
}

static int make_hard(const char *path)
{
    return link(files[draw(file_count)], path);
}

static int make_symlink(const char *path)
{
    static const int lengths[] = {1, 7, 59, 60, 61, 155, 300, 900, 1022};
    static char target[1024];
    int length = lengths[draw(sizeof lengths / sizeof *lengths)];
    for (int i = 0; i < length; i++)
        target[i] = "abc/..\xc3\xa4"[i % 8];
    target[length] = 0;
    return symlink(target, path);
}

static int make_node(const char *path)
{
    static const mode_t types[] = {S_IFIFO, S_IFSOCK, S_IFCHR, S_IFBLK};
    mode_t type = types[draw(4)];
    int far = draw(2);
    dev_t device = makedev(far ? draw(4096) : draw(256), far ? draw(1 << 20) : draw(256));
    return mknod(path, type | draw(0777 + 1), type < S_IFSOCK && type != S_IFIFO ? device : 0);
}

static void set_acl(const char *path, const char *name)
{
    /* Version 2, then tag, rights, id: owner, a user, group, a group, mask, others. */
    unsigned char acl[4 + 6 * 8] = {2};
    static const uint16_t tags[] = {1, 2, 4, 8, 16, 32};
    for (int i = 0; i < 6; i++) {
        uint32_t id = i == 1 ? 70000 + draw(5) : i == 3 ? draw(9) : 0xffffffff;
        uint16_t rights = draw(8);
        memcpy(acl + 4 + i * 8, &tags[i], 2);
        memcpy(acl + 6 + i * 8, &rights, 2);
        memcpy(acl + 8 + i * 8, &id, 4);
    }
    if (!setxattr(path, name, acl, sizeof acl, 0))
        made[ACLS]++;
}

static void set_xattrs(const char *path)
{
    static const char *const names[] = {"user.short", "user.\xe5\x90\x8d\xe5\xad\x97",
                                        "security.other", "trusted.root", "user.a.long.name.of.it"};
    static const int sizes[] = {0, 3, 40, 40, 150, 700, 1900, 3500};
    for (int i = 1 + draw(4); i; i--) {
        int size = sizes[draw(8)];
        make_noise(size);
        if (!lsetxattr(path, names[draw(5)], noise, size, 0))
            made[XATTRS]++;
    }
    if (!draw(10)) {
        static const unsigned char capable[20] = {1, 0, 0, 2, 0, 4};
        if (!lsetxattr(path, "security.capability", capable, sizeof capable, 0))
            made[XATTRS]++;
    }
}

static void set_times(const char *path)
{
    static const int64_t seconds[] = {-2000000000, -1, 0, 1, 315532800, 0x7fffffff,
                                      0x80000000, 0xffffffff, 0x100000000, 0x200000000};
    struct timespec at[2];
    for (int i = 0; i < 2; i++) {
        at[i].tv_sec = draw(2) ? seconds[draw(10)] : (int64_t)draw(4000000000);
        at[i].tv_nsec = draw(3) ? draw(1000000000) : draw(2) * 999999999;
    }
    if (!utimensat(AT_FDCWD, path, at, AT_SYMLINK_NOFOLLOW))
        made[TIMES]++;
}

static void set_attributes(const char *path, int is_symlink)
{
    if (!draw(5)) {
        static const uid_t owners[] = {1, 1000, 65534, 65536, 70000, 4000000000};
        if (!lchown(path, owners[draw(6)], owners[draw(6)]))
            made[OWNERS]++;
    }
    if (!is_symlink && !draw(5))
        chmod(path, draw(010000));
    if (!draw(8))
        set_xattrs(path);
    if (!is_symlink && !draw(20))
        set_acl(path, "system.posix_acl_access");
    if (!draw(5))
        set_times(path);
}

/* Change a file that is there: longer, shorter, another content, another place, gone. */
static void change(unsigned number)
{
    size_t index = draw(file_count);
    char *path = files[index];
    int file;
    switch (draw(6)) {
    case 0:
        if (unlink(path))
            fail(path);
        made[REMOVED]++;
        files[index] = files[--file_count];
        free(path);
        return;
    case 1: {
        char name[32];
        sprintf(name, "moved %u", number);
        char *other = join(some_directory(), name);
        if (rename(path, other))
            fail(other);
        made[RENAMED]++;
        files[index] = other;
        free(path);
        return;
    }
    case 2:
        if (truncate(path, draw(5000)))
            fail(path);
        break;
    default:
        file = open(path, O_WRONLY);
        if (file < 0)
            fail(path);
        make_noise(9000);
        write_at(file, noise, 1 + draw(9000), draw(20000));
        if (!draw(20))
            fsync(file);
        close(file);
    }
    made[CHANGED]++;
}

/* A directory that becomes large, and then empty, or goes. */
static void come_and_go(unsigned number)
{
    char path[64], below[128];
    sprintf(path, "gone %u", number);
    if (mkdir(path, 0700))
        fail(path);
    for (int round = 0; round < 2; round++)
        for (int i = 0; i < 300; i++) {
            sprintf(below, "%s/%d a name that takes some room %d", path, i, i * 7);
            int file = round ? -1 : open_new(below);
            if (round ? unlink(below) : file < 0)
                fail(below);
            if (file >= 0)
                close(file);
        }
    if (number % 2 && rmdir(path))
        fail(path);
}

/* Deeper than a path can be long. */
static void deep(void)
{
    int top = open(".", O_RDONLY);
    char name[64];
    for (int i = 0; i < DEPTH; i++) {
        sprintf(name, "deep down in a directory with a name %d", i);
        if (mkdir(name, 0755) || chdir(name))
            fail(name);
    }
    if (make_file("bottom") || fchdir(top))
        fail("bottom");
    close(top);
}

static void grow_one(unsigned number)
{
    unsigned kind = draw(1000);
    char *path;
    if (kind < 30 && directory_count < 900) {
        path = place(number, make_directory, DIRECTORIES);
        if (strlen(path) < 2000)
            directories[directory_count++] = path;
        if (!draw(6))
            set_acl(path, "system.posix_acl_default");
        set_attributes(path, 0);
    } else if (kind < 70 && (path = place(number, make_symlink, SYMLINKS))) {
        set_attributes(path, 1);
    } else if (kind < 85 && (path = place(number, make_node, NODES))) {
        set_attributes(path, 0);
    } else if (kind < 135 && file_count && (path = place(number, make_hard, HARD))) {
        files[file_count++] = path;
    } else {
        int (*make)(const char *) = kind < 165 ? make_sparse : kind < 180 ? make_allocated : make_file;
        path = place(number, kind == 999 ? make_pieces : make, kind < 165 ? SPARSE : FILES);
        files[file_count++] = path;
        set_attributes(path, 0);
    }
    if (!draw(10) && file_count > 10)
        change(number);
    if (number % 2500 == 2499) {
        come_and_go(number / 2500);
        sync();
    }
}

static void grow(const char *directory, unsigned count, unsigned huge)
{
    mkdir(directory, 0755);
    if (chdir(directory))
        fail(directory);
    umask(0);
    spread = huge ? 3 : 20;
    files = calloc(count + 1, sizeof *files);
    directories = calloc(1000, sizeof *directories);
    directories[directory_count++] = strdup(".");
    directories[directory_count++] = strdup("./many");
    if (mkdir("many", 0755))
        fail("many");
    for (unsigned number = 0; number < count; number++)
        grow_one(number);
    while (huge--)
        place(count + huge, make_huge, LARGE);
    deep();
    sync();
    for (int i = 0; i < KINDS; i++)
        printf("%s=%lu\n", kinds[i], made[i]);
}

/* -------------------------------------------------------------------------------- churn */

/* What is safe after fsync: a file of its own name, hashed as in a list. */
static void make_safe(unsigned number, FILE *out)
{
    char name[64];
    size_t size = 1 + draw(30000);
    sprintf(name, "safe %u", number);
    int file = open(name, O_CREAT | O_RDWR | O_TRUNC, 0600);
    if (file < 0)
        fail(name);
    make_noise(size);
    write_at(file, noise, size, 0);
    if (fsync(file))
        fail(name);
    print_hex(name, strlen(name), out);
    putc('\t', out);
    print_content(file, size, out);
    putc('\n', out);
    if (fflush(out) || fsync(fileno(out)))
        fail("output");
    close(file);
}

static void churn(const char *directory, int seconds, const char *output)
{
    FILE *out = fopen(output, "w");
    time_t end = time(NULL) + seconds;
    char name[64], other[64];
    mkdir(directory, 0755);
    if (!out || chdir(directory))
        fail(directory);
    for (unsigned number = 0; time(NULL) < end; number++) {
        sprintf(name, "churn %u", (unsigned)draw(400));
        sprintf(other, "moved %u", (unsigned)draw(200));
        switch (draw(5)) {
        case 0:
            unlink(name);
            break;
        case 1:
            rename(name, other);
            break;
        case 2:
            unlink(other);
            break;
        default:
            unlink(name);
            if (make_file(name))
                fail(name);
        }
        if (number % 8 == 7)
            make_safe(number / 8, out);
    }
}

int main(int count, char **words)
{
    if (count == 4 && !strcmp(words[1], "list")) {
        list_to(words[2], words[3]);
        return 0;
    }
    state = count > 3 ? (strtoull(words[3], NULL, 10) + 1) * 0x9e3779b97f4a7c15 : 0;
    if (count == 6 && !strcmp(words[1], "grow"))
        grow(words[2], atoi(words[4]), atoi(words[5]));
    else if (count == 6 && !strcmp(words[1], "churn"))
        churn(words[2], atoi(words[4]), words[5]);
    else
        return 2;
    return 0;
}
