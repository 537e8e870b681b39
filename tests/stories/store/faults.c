/* Faults of a machine, for one process: loaded by LD_PRELOAD, turned on and off while it runs by
 * whoever writes into the file that STORY_FAULTS names: two doubles,
 *
 *     clock_shift_s   added to the wall clock; what measures spans (CLOCK_MONOTONIC) stays true
 *     sync_s          how long each fsync and fdatasync takes longer
 *
 * STORY_HOST, where set, is the host's name: another machine, as far as a program can tell.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static volatile double *faults;

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("STORY_FAULTS");
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (file < 0) return;
    void *mapped = mmap(NULL, 2 * sizeof(double), PROT_READ, MAP_SHARED, file, 0);
    if (mapped != MAP_FAILED) faults = mapped;
    close(file);
}

static int shifted(struct timespec *now) {
    double shift_s = faults ? faults[0] : 0.0;
    now->tv_sec += (time_t)shift_s;
    return 0;
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    long failed = syscall(SYS_clock_gettime, clock, now);
    return failed ? -1 : clock == CLOCK_REALTIME ? shifted(now) : 0;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    struct timespec found;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &found);
    now->tv_sec = found.tv_sec;
    now->tv_usec = found.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *kept) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (kept) *kept = now.tv_sec;
    return now.tv_sec;
}

static void be_slow(void) {
    double wait_s = faults ? faults[1] : 0.0;
    if (wait_s > 0) usleep((useconds_t)(1e6 * wait_s));
}

int fsync(int file) {
    be_slow();
    return (int)syscall(SYS_fsync, file);
}

int fdatasync(int file) {
    be_slow();
    return (int)syscall(SYS_fdatasync, file);
}

int gethostname(char *name, size_t size) {
    const char *given = getenv("STORY_HOST");
    if (given) {
        strncpy(name, given, size);
        return 0;
    }
    char own[256] = {0};
    int file = open("/proc/sys/kernel/hostname", O_RDONLY | O_CLOEXEC);
    if (file < 0) return -1;
    ssize_t length = read(file, own, sizeof own - 1);
    close(file);
    if (length < 1) return -1;
    own[strcspn(own, "\n")] = 0;
    strncpy(name, own, size);
    return 0;
}
