#define _POSIX_C_SOURCE 200809L
#include "files.h"

#include "sha256.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MANIFEST_BYTES = 16 << 20, HASH_BYTES = 1 << 16 };

/* Opens folder/name part by part without following a link; -1 and errno on failure. */
static int open_inside(const char *folder, const char *name) {
    int at = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    while (at >= 0) {
        char part[256];
        size_t length = strcspn(name, "/");
        if (length >= sizeof part) {
            close(at);
            errno = ENAMETOOLONG;
            return -1;
        }
        memcpy(part, name, length);
        part[length] = '\0';
        bool last = name[length] == '\0';
        /* O_NONBLOCK: opening a named pipe must not wait for a writer. */
        int next = openat(at, part, O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK | (last ? 0 : O_DIRECTORY));
        int reason = errno;
        close(at);
        errno = reason;
        if (last)
            return next;
        at = next;
        name += length + 1;
    }
    return -1;
}

static forerun_status open_regular(const char *folder, const char *name, int *out, int64_t *size,
                                   forerun_error *error) {
    const char *advice = "Build the bundle again, or copy it again from where it came.";
    int handle = open_inside(folder, name);
    if (handle < 0 && errno == ELOOP)
        return fr_fail(error, FORERUN_BUNDLE_ERROR, "%s/%s: expected a regular file, found a symbolic link. %s", folder,
                       name, advice);
    if (handle < 0)
        return fr_fail(error, FORERUN_FILE_ERROR, "%s/%s: cannot be read: %s. %s", folder, name, strerror(errno),
                       advice);
    struct stat facts;
    if (fstat(handle, &facts) != 0 || !S_ISREG(facts.st_mode)) {
        close(handle);
        return fr_fail(error, FORERUN_BUNDLE_ERROR, "%s/%s: expected a regular file, found something else. %s", folder,
                       name, advice);
    }
    *out = handle;
    *size = (int64_t)facts.st_size;
    return FORERUN_OK;
}

/* Like read(), but only the end of the file makes it short. -1 and errno on failure. */
static ssize_t read_all(int handle, void *buffer, size_t bytes) {
    size_t done = 0;
    while (done < bytes) {
        ssize_t n = read(handle, (char *)buffer + done, bytes - done);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -1;
        if (n == 0)
            break;
        done += (size_t)n;
    }
    return (ssize_t)done;
}

forerun_status fr_file_read(fr_arena *arena, const char *folder, const char *name, size_t most, char **out,
                            size_t *length, forerun_error *error) {
    int handle;
    int64_t size;
    forerun_status status = open_regular(folder, name, &handle, &size, error);
    if (status != FORERUN_OK)
        return status;
    char *text = NULL;
    if ((uint64_t)size > most)
        status = fr_fail(error, FORERUN_BUNDLE_ERROR,
                         "%s/%s: expected at most %zu bytes, found %" PRId64 ". This is not a file that forerun wrote.",
                         folder, name, most, size);
    else if ((text = fr_arena_take(arena, (size_t)size + 1, 1)) == NULL)
        status = fr_fail(error, FORERUN_OUT_OF_MEMORY, "%s/%s: no memory for %" PRId64 " bytes.", folder, name, size);
    else if (read_all(handle, text, (size_t)size) != (ssize_t)size)
        status = fr_fail(error, FORERUN_FILE_ERROR, "%s/%s: cannot be read to its end. Check the disk.", folder, name);
    close(handle);
    if (status != FORERUN_OK)
        return status;
    *out = text;
    *length = (size_t)size;
    return FORERUN_OK;
}

static forerun_status hash_handle(int handle, const char *folder, const char *name, unsigned char digest[32],
                                  forerun_error *error) {
    unsigned char buffer[HASH_BYTES];
    fr_sha256 hash;
    fr_sha256_begin(&hash);
    ssize_t n;
    while ((n = read_all(handle, buffer, sizeof buffer)) > 0)
        fr_sha256_add(&hash, buffer, (size_t)n);
    if (n < 0)
        return fr_fail(error, FORERUN_FILE_ERROR, "%s/%s: cannot be read: %s. Check the disk.", folder, name,
                       strerror(errno));
    fr_sha256_end(&hash, digest);
    return FORERUN_OK;
}

forerun_status fr_file_check(const char *folder, const fr_file *file, forerun_error *error) {
    int handle;
    int64_t size;
    forerun_status status = open_regular(folder, file->name, &handle, &size, error);
    if (status != FORERUN_OK)
        return status;
    unsigned char digest[32];
    if (size != file->size)
        status = fr_fail(error, FORERUN_BUNDLE_ERROR,
                         "%s/%s: expected %" PRId64 " bytes, found %" PRId64
                         ": the file is damaged or of another build. Build the bundle again, or copy it again.",
                         folder, file->name, file->size, size);
    else
        status = hash_handle(handle, folder, file->name, digest, error);
    close(handle);
    if (status != FORERUN_OK || memcmp(digest, file->sha256, sizeof digest) == 0)
        return status;
    char expected[65], found[65];
    fr_sha256_hex(file->sha256, expected);
    fr_sha256_hex(digest, found);
    return fr_fail(
        error, FORERUN_BUNDLE_ERROR,
        "%s/%s: expected SHA-256 %s, found %s: the file is damaged or of another build. Build the bundle again, "
        "or copy it again.",
        folder, file->name, expected, found);
}

char *fr_file_path(fr_arena *arena, const char *folder, const char *name) {
    size_t length = strlen(folder) + strlen(name) + 2;
    char *path = fr_arena_take(arena, length, 1);
    if (path != NULL)
        snprintf(path, length, "%s/%s", folder, name);
    return path;
}

forerun_status fr_manifest_open(fr_arena *arena, const char *folder, fr_manifest *out, forerun_error *error) {
    char *text;
    size_t length;
    forerun_status status = fr_file_read(arena, folder, "manifest.json", MANIFEST_BYTES, &text, &length, error);
    if (status != FORERUN_OK)
        return status;
    const char *where = fr_file_path(arena, folder, "manifest.json");
    if (where == NULL)
        return fr_fail(error, FORERUN_OUT_OF_MEMORY, "No memory to open %s.", folder);
    status = fr_manifest_parse(arena, where, text, length, out, error);
    for (size_t i = 0; status == FORERUN_OK && i < out->n_files; i++)
        status = fr_file_check(folder, &out->files[i], error);
    return status;
}
