/* Reading files of a bundle. */
#ifndef FORERUN_FILES_H
#define FORERUN_FILES_H

#include "manifest.h"

/* Reads FOLDER/name, at most `most` bytes, into the arena; the copy is zero terminated. */
forerun_status fr_file_read(fr_arena *arena, const char *folder, const char *name, size_t most, char **out,
                            size_t *length, forerun_error *error);

/* Size and SHA-256 of FOLDER/file.name against the manifest's. Nothing on the way to it may be a symbolic link. */
forerun_status fr_file_check(const char *folder, const fr_file *file, forerun_error *error);

/* "FOLDER/name" in the arena; NULL when memory is out. */
char *fr_file_path(fr_arena *arena, const char *folder, const char *name);

#endif
