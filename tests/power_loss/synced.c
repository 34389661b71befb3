/* Keeps what a power cut would leave of the books: a copy of each of their files as it was at its last fsync.
 *
 * LD_PRELOAD this, with SYNCED_TO a folder and SYNCED_OF the beginning of the names to keep. A copy is put in place by
 * rename, so that a kill in the middle of one leaves the one before; of several processes one copies at a time.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

static void keep(int fd)
{
    const char *folder = getenv("SYNCED_TO"), *wanted = getenv("SYNCED_OF");
    char link[64], path[PATH_MAX], half[PATH_MAX], whole[PATH_MAX], block[65536];
    if (!folder || !wanted)
        return;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1), got;
    if (length < 0)
        return;
    path[length] = 0;
    const char *name = strrchr(path, '/');
    name = name ? name + 1 : path;
    if (strncmp(name, wanted, strlen(wanted)))
        return;
    snprintf(half, sizeof half, "%s/.%s.half", folder, name);
    snprintf(whole, sizeof whole, "%s/%s", folder, name);
    int turn = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    flock(turn, LOCK_EX);
    int in = open(path, O_RDONLY | O_CLOEXEC), out = open(half, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    while ((got = read(in, block, sizeof block)) > 0)
        if (write(out, block, (size_t)got) != got)
            abort();
    close(in);
    close(out);
    if (rename(half, whole))
        abort();
    close(turn);
}

#define SYNC(call)                                                                                                     \
    int call(int fd)                                                                                                   \
    {                                                                                                                  \
        static int (*real)(int);                                                                                       \
        if (!real)                                                                                                     \
            real = (int (*)(int))dlsym(RTLD_NEXT, #call);                                                              \
        int done = real(fd);                                                                                           \
        if (!done)                                                                                                     \
            keep(fd);                                                                                                  \
        return done;                                                                                                   \
    }

SYNC(fsync)
SYNC(fdatasync)
