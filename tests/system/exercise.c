/* Reads, writes and verifies a file at random, and prints the CRC-32 of what must be in it.
 *
 *   exercise run FILE SEED OPERATIONS   random operations, buffered and O_DIRECT, with fsync
 *   exercise sum FILE                   the CRC-32 of the file
 *   exercise fill FILE BYTE             one buffered write of the whole file, then fsync
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define PIECE_MAX (96 * 1024)
#define ALIGNMENT 4096

static uint64_t state;

static uint64_t draw(uint64_t below)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (state >> 11) % below;
}

static void fail(const char *what)
{
    perror(what);
    exit(1);
}

static uint32_t crc32(const unsigned char *data, size_t size)
{
    uint32_t table[256], crc = 0xffffffff;
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t value = i;
        for (int bit = 0; bit < 8; bit++)
            value = value & 1 ? value >> 1 ^ 0xedb88320 : value >> 1;
        table[i] = value;
    }
    while (size--)
        crc = table[(crc ^ *data++) & 255] ^ crc >> 8;
    return ~crc;
}

static void transfer(int write_it, int file, unsigned char *data, size_t size, off_t at)
{
    while (size) {
        ssize_t done = write_it ? pwrite(file, data, size, at) : pread(file, data, size, at);
        if (done <= 0)
            fail(write_it ? "pwrite" : "pread");
        data += done;
        size -= done;
        at += done;
    }
}

static void run(const char *path, unsigned char *model, size_t size, long operations)
{
    int buffered = open(path, O_RDWR), direct = open(path, O_RDWR | O_DIRECT);
    unsigned char *piece;
    if (buffered < 0 || direct < 0 || posix_memalign((void **)&piece, ALIGNMENT, PIECE_MAX))
        fail(path);
    transfer(0, buffered, model, size, 0);
    for (long i = 0; i < operations; i++) {
        int file = i / 500 % 2 ? direct : buffered;
        size_t unit = file == direct ? ALIGNMENT : 1;
        size_t length = (1 + draw(PIECE_MAX / unit)) * unit;
        /* Most operations are small, as those of a guest are. */
        if (draw(4))
            length = (length % (8 * ALIGNMENT) / unit + 1) * unit;
        if (length > PIECE_MAX)
            length = PIECE_MAX;
        off_t at = draw((size - length) / unit + 1) * unit;
        if (draw(2)) {
            for (size_t j = 0; j < length; j += 8)
                memcpy(piece + j, &(uint64_t){draw(UINT64_MAX)}, length - j < 8 ? length - j : 8);
            memcpy(model + at, piece, length);
            transfer(1, file, piece, length, at);
        } else {
            transfer(0, file, piece, length, at);
            if (memcmp(piece, model + at, length)) {
                fprintf(stderr, "operation %ld: %zu bytes at %lld differ\n", i, length,
                        (long long)at);
                exit(1);
            }
        }
        if (i % 97 == 0 && fsync(file))
            fail("fsync");
    }
    if (fsync(buffered) || fsync(direct) || close(buffered) || close(direct))
        fail("fsync");
}

int main(int count, char **words)
{
    struct stat found;
    if (count < 3 || stat(words[2], &found))
        fail("stat");
    size_t size = found.st_size;
    unsigned char *content = malloc(size);
    if (!content)
        fail("malloc");
    if (!strcmp(words[1], "run") && count == 5) {
        state = strtoull(words[3], NULL, 10) | 1;
        run(words[2], content, size, atol(words[4]));
    } else {
        int file = open(words[2], O_RDWR);
        if (file < 0)
            fail(words[2]);
        if (!strcmp(words[1], "fill") && count == 4) {
            memset(content, atoi(words[3]), size);
            transfer(1, file, content, size, 0);
            if (fsync(file))
                fail("fsync");
        } else {
            transfer(0, file, content, size, 0);
        }
        close(file);
    }
    printf("%08x\n", crc32(content, size));
    return 0;
}
