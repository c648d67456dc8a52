/*
 * What every load here needs: time, CPU, sockets, WebSocket frames, latencies. One program, one
 * thread; all functions are static and all state belongs to the program that includes this.
 *
 * Define LATENCY_STEP_US, the width of one histogram bucket, before including it.
 */
#ifndef WIREBELL_LOAD_H
#define WIREBELL_LOAD_H

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum {
    READ_BYTES = 1 << 18,      /* one recv(): 2,000 joined deliveries fit */
    FRAME_BYTES_MAX = 1 << 16, /* no server here sends more in one message */
    REQUEST_BYTES_MAX = 8192,
    EVENTS_MAX = 1024,
    LATENCY_BUCKETS = 2000000, /* later ones fall into the last */
    PATIENCE_MS = 20000,       /* nothing arrives for so long: the run has failed */
    LIFETIME_SPARE_SECONDS = 120,
};

/* What has arrived on a connection and is not a whole frame or answer yet. */
struct stream {
    int fd;
    uint32_t kept_bytes;
    unsigned char *kept; /* only while something is incomplete */
};

struct frame {
    int first_byte; /* FIN, RSV1 to RSV3, opcode */
    unsigned char *payload;
    size_t bytes;
};

struct latencies {
    uint32_t buckets[LATENCY_BUCKETS];
};

static unsigned char input[READ_BYTES + FRAME_BYTES_MAX + 16];

static inline __attribute__((noreturn, format(printf, 1, 2))) void fail(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    fprintf(stderr, "%s: ", program_invocation_short_name);
    vfprintf(stderr, format, arguments);
    fprintf(stderr, "\n");
    exit(1);
}

static inline uint64_t now_us(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000;
}

static inline double cpu_seconds(void)
{
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
           (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
}

/* CPU time of a process, all threads: utime and stime, fields 14 and 15 (proc(5)); 0 for pid 0. */
static inline double process_cpu_seconds(int pid)
{
    char path[64];
    int user = 0, system = 0;

    snprintf(path, sizeof path, "/proc/%d/stat", pid);
    FILE *file = pid ? fopen(path, "r") : NULL;
    if (!file)
        return 0;
    if (fscanf(file, "%*d %*s %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %d %d", &user, &system) != 2)
        fail("%s cannot be read", path);
    fclose(file);
    return (double)(user + system) / (double)sysconf(_SC_CLK_TCK);
}

/* Whose CPU time a round tells, each 0 for none. */
struct processes {
    int server, reader, broker; /* with --reader-port: where is published, and where is read */
};

struct cpu_times {
    double load, server, reader, broker;
};

/* The broker may be several processes; those that it has lost meanwhile are forgotten. */
static inline double family_cpu_seconds(int pid)
{
    char path[64];
    int child;
    double seconds = process_cpu_seconds(pid);

    snprintf(path, sizeof path, "/proc/%d/task/%d/children", pid, pid);
    FILE *file = pid ? fopen(path, "r") : NULL;
    while (file && fscanf(file, "%d", &child) == 1)
        seconds += process_cpu_seconds(child);
    if (file)
        fclose(file);
    return seconds;
}

static inline struct cpu_times read_cpu_times(const struct processes *processes)
{
    return (struct cpu_times){.load = cpu_seconds(),
                              .server = process_cpu_seconds(processes->server),
                              .reader = process_cpu_seconds(processes->reader),
                              .broker = family_cpu_seconds(processes->broker)};
}

/* Shares of a core in the `seconds` since `before`. */
static inline struct cpu_times cpu_shares(const struct processes *processes, struct cpu_times before, double seconds)
{
    struct cpu_times now = read_cpu_times(processes);
    return (struct cpu_times){.load = (now.load - before.load) / seconds,
                              .server = (now.server - before.server) / seconds,
                              .reader = (now.reader - before.reader) / seconds,
                              .broker = (now.broker - before.broker) / seconds};
}

/* The last members of a line of JSON. */
static inline void print_cpu_shares(struct cpu_times shares)
{
    printf("\"load_cpu\":%.3f,\"server_cpu\":%.3f,\"reader_cpu\":%.3f,\"broker_cpu\":%.3f}\n", shares.load,
           shares.server, shares.reader, shares.broker);
    fflush(stdout);
}

/* End with the parent, and after `seconds` in any case. */
static inline void limit_lifetime(int seconds)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    alarm((unsigned)(seconds + LIFETIME_SPARE_SECONDS));
}

static inline void count_latency(struct latencies *latencies, uint64_t microseconds)
{
    uint64_t bucket = microseconds / LATENCY_STEP_US;
    latencies->buckets[bucket < LATENCY_BUCKETS ? bucket : LATENCY_BUCKETS - 1]++;
}

/* The latency that `share` of all stayed within, in milliseconds; 0 when there was none. */
static inline double latency_ms(const struct latencies *latencies, double share)
{
    uint64_t total = 0, seen = 0;
    for (int i = 0; i < LATENCY_BUCKETS; i++)
        total += latencies->buckets[i];
    for (int i = 0; i < LATENCY_BUCKETS && total; i++)
        if ((double)(seen += latencies->buckets[i]) >= share * (double)total)
            return (double)(i + 1) * LATENCY_STEP_US / 1000;
    return 0;
}

static inline void watch(int loop_fd, int operation, int fd, uint32_t events, void *data)
{
    struct epoll_event event = {.events = events, .data.ptr = data};
    if (epoll_ctl(loop_fd, operation, fd, &event) < 0)
        fail("epoll_ctl: %s", strerror(errno));
}

/* Begin to connect to a port of this machine; the socket is writable when that is done. */
static inline int begin_connect(int port)
{
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_port = htons((uint16_t)port),
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), yes = 1;

    if (fd < 0)
        fail("socket: %s", strerror(errno));
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
    if (connect(fd, (struct sockaddr *)&address, sizeof address) < 0 && errno != EINPROGRESS)
        fail("connect: %s", strerror(errno));
    return fd;
}

static inline void check_connected(int fd)
{
    int error = 0;
    socklen_t size = sizeof error;

    getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size);
    if (error)
        fail("connect: %s", strerror(error));
}

static inline void send_all(int fd, const void *data, size_t bytes)
{
    const char *rest = data;
    while (bytes) {
        ssize_t sent = send(fd, rest, bytes, MSG_NOSIGNAL);
        if (sent < 0 && errno == EAGAIN) {
            struct pollfd writable = {.fd = fd, .events = POLLOUT};
            if (poll(&writable, 1, PATIENCE_MS) != 1)
                fail("the server has stopped reading");
            continue;
        }
        if (sent < 0)
            fail("send: %s", strerror(errno));
        rest += sent;
        bytes -= (size_t)sent;
    }
}

/* Write the request for an upgrade (RFC 6455 section 4.1); `headers` are whole lines. */
static inline size_t encode_request(char *out, int port, const char *path, const char *headers)
{
    int bytes = snprintf(out, REQUEST_BYTES_MAX,
                         "GET %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nUpgrade: websocket\r\n"
                         "Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
                         "Sec-WebSocket-Version: 13\r\n%s\r\n",
                         path, port, headers);
    if (bytes >= REQUEST_BYTES_MAX)
        fail("request too long");
    return (size_t)bytes;
}

/* Length of the answer to an upgrade, 0 while it is incomplete; a refusal ends the program. The
 * answer is a string afterwards: its last line end is gone. */
static inline size_t receive_answer(unsigned char *data, size_t bytes)
{
    char *end = memmem(data, bytes, "\r\n\r\n", 4);

    if (!end)
        return 0;
    *end = 0;
    if (strncmp((char *)data, "HTTP/1.1 101", 12) || !strstr((char *)data, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="))
        fail("upgrade refused: %s", (char *)data);
    return (size_t)(end + 4 - (char *)data);
}

/* Write one masked frame (RFC 6455 section 5.2) to `out`; returns its length, at most bytes + 8. */
static inline size_t encode_frame(unsigned char *out, int opcode, const void *payload, size_t bytes)
{
    static uint32_t mask = 2463534242;
    size_t head = 2;

    mask ^= mask << 13, mask ^= mask >> 17, mask ^= mask << 5; /* xorshift32 */
    out[0] = (unsigned char)(0x80 | opcode);
    out[1] = (unsigned char)(0x80 | (bytes < 126 ? bytes : 126));
    if (bytes >= 126) {
        out[2] = (unsigned char)(bytes >> 8);
        out[3] = (unsigned char)bytes;
        head = 4;
    }
    memcpy(out + head, &mask, 4);
    for (size_t i = 0; i < bytes; i++)
        out[head + 4 + i] = ((const unsigned char *)payload)[i] ^ ((unsigned char *)&mask)[i & 3];
    return head + 4 + bytes;
}

static inline void send_frame(int fd, int opcode, const void *payload, size_t bytes)
{
    unsigned char frame[256];
    if (bytes > sizeof frame - 8)
        fail("frame of %zu bytes to send", bytes);
    send_all(fd, frame, encode_frame(frame, opcode, payload, bytes));
}

/* Find the first whole frame of a server; returns its length in all, 0 while it is incomplete. */
static inline size_t find_frame(unsigned char *data, size_t bytes, struct frame *frame)
{
    size_t head = 2;

    if (bytes < 2)
        return 0;
    frame->bytes = data[1];
    if (frame->bytes > 126)
        fail("frame with a mask or with more than %d bytes", FRAME_BYTES_MAX);
    if (frame->bytes == 126) {
        if (bytes < 4)
            return 0;
        frame->bytes = (size_t)data[2] << 8 | data[3];
        head = 4;
    }
    if (bytes < head + frame->bytes)
        return 0;
    frame->first_byte = data[0];
    frame->payload = data + head;
    return head + frame->bytes;
}

/* Read into `input`, behind what was kept; returns the bytes there, 0 when nothing new came. */
static inline size_t receive_stream(struct stream *stream)
{
    if (stream->kept_bytes)
        memcpy(input, stream->kept, stream->kept_bytes);
    ssize_t got = recv(stream->fd, input + stream->kept_bytes, READ_BYTES, 0);
    if (got < 0 && errno == EAGAIN)
        return 0;
    if (got <= 0)
        fail("a connection ended: %s", got ? strerror(errno) : "end of stream");
    return stream->kept_bytes + (size_t)got;
}

/* Keep what could not be used yet. */
static inline void keep_rest(struct stream *stream, const unsigned char *rest, size_t bytes)
{
    if (!bytes && !stream->kept_bytes)
        return;
    if (bytes > FRAME_BYTES_MAX)
        fail("%zu bytes without a whole frame", bytes);
    free(stream->kept);
    stream->kept = NULL;
    stream->kept_bytes = (uint32_t)bytes;
    if (bytes) {
        stream->kept = malloc(bytes);
        memcpy(stream->kept, rest, bytes);
    }
}

/* Collect a `--header` as a line of the request. */
static inline void add_header(char *headers, size_t size, const char *line)
{
    if (strlen(headers) + strlen(line) + 3 > size)
        fail("headers too long");
    strcat(strcat(headers, line), "\r\n");
}

#endif
