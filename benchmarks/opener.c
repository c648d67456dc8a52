/*
 * The load of a front door: clients that connect, are upgraded, and leave.
 *
 * Question  How many WebSocket connections per second does a server open?
 * Method    C places in one epoll loop. Each connects, sends its upgrade (RFC 6455), waits for the
 *           whole answer with status 101, closes with a reset (SO_LINGER 0, which leaves no port in
 *           TIME_WAIT) and begins again. What the server does to forget a connection is in the rate.
 *           A latency is the time from connect() to the answer. With --get it is a plain request
 *           and an answer with status 200 instead, also on a new connection each.
 * Expected  The load itself can open about 30,000 connections/s; `load_cpu` near 1.0 means that it
 *           was the limit.
 *
 * Usage     opener --port P --path /x [--concurrency 64] [--warm-ms 300] [--measure-ms 3000]
 *                  [--header 'Name: value']... [--get 1] [--server-pid PID]
 *           One JSON line on stdout. Exit status 1, with one line on stderr, when a connection is
 *           refused or ends before its answer.
 */
#define _GNU_SOURCE
#define LATENCY_STEP_US 10
#include "load.h"

struct place {
    struct stream stream;
    int is_upgrading;
    uint64_t started_at;
};

static struct {
    int port, concurrency, warm_ms, measure_ms, server_pid, gets;
    const char *path;
    char headers[4096];
} options = {.concurrency = 64, .warm_ms = 300, .measure_ms = 3000, .path = "/"};

static int loop_fd;
static uint64_t opened;
static struct latencies latencies;
static char request[REQUEST_BYTES_MAX];
static size_t request_bytes;

static void begin(struct place *place)
{
    place->started_at = now_us();
    place->is_upgrading = 0;
    place->stream.fd = begin_connect(options.port);
    watch(loop_fd, EPOLL_CTL_ADD, place->stream.fd, EPOLLOUT, place);
}

static void leave(struct place *place)
{
    struct linger at_once = {.l_onoff = 1, .l_linger = 0};

    setsockopt(place->stream.fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
    close(place->stream.fd);
    keep_rest(&place->stream, NULL, 0);
}

static size_t encode_get(void)
{
    int bytes = snprintf(request, REQUEST_BYTES_MAX, "GET %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n%s\r\n",
                         options.path, options.port, options.headers);

    if (bytes >= REQUEST_BYTES_MAX)
        fail("request too long");
    return (size_t)bytes;
}

/* Length of the head of an answer to --get, 0 while it is incomplete. */
static size_t receive_head(unsigned char *data, size_t bytes)
{
    char *end = memmem(data, bytes, "\r\n\r\n", 4);

    if (end && strncmp((char *)data, "HTTP/1.1 200", 12))
        fail("request refused: %.60s", (char *)data);
    return end ? (size_t)(end + 4 - (char *)data) : 0;
}

static void advance(struct place *place)
{
    if (!place->is_upgrading) {
        check_connected(place->stream.fd);
        send_all(place->stream.fd, request, request_bytes);
        place->is_upgrading = 1;
        watch(loop_fd, EPOLL_CTL_MOD, place->stream.fd, EPOLLIN, place);
        return;
    }
    size_t bytes = receive_stream(&place->stream);
    if (!bytes)
        return;
    if (!(options.gets ? receive_head : receive_answer)(input, bytes)) {
        keep_rest(&place->stream, input, bytes);
        return;
    }
    count_latency(&latencies, now_us() - place->started_at);
    opened++;
    leave(place);
    begin(place);
}

static void run_until(uint64_t end)
{
    static struct epoll_event events[EVENTS_MAX];

    while (now_us() < end) {
        int count = epoll_wait(loop_fd, events, EVENTS_MAX, PATIENCE_MS);
        if (!count)
            fail("no answer for %d ms", PATIENCE_MS);
        for (int i = 0; i < count; i++)
            advance(events[i].data.ptr);
    }
}

static void read_options(int argc, char **argv)
{
    static const struct option names[] = {
        {"port", 1, 0, 'p'},    {"path", 1, 0, 'u'},       {"concurrency", 1, 0, 'n'}, {"warm-ms", 1, 0, 'a'},
        {"header", 1, 0, 'h'},  {"measure-ms", 1, 0, 'm'}, {"server-pid", 1, 0, 's'},
        {"get", 1, 0, 'g'},     {0, 0, 0, 0}};
    int name;

    while ((name = getopt_long(argc, argv, "", names, NULL)) != -1) {
        switch (name) {
        case 'p': options.port = atoi(optarg); break;
        case 'u': options.path = optarg; break;
        case 'n': options.concurrency = atoi(optarg); break;
        case 'a': options.warm_ms = atoi(optarg); break;
        case 'm': options.measure_ms = atoi(optarg); break;
        case 's': options.server_pid = atoi(optarg); break;
        case 'g': options.gets = atoi(optarg); break;
        case 'h': add_header(options.headers, sizeof options.headers, optarg); break;
        default: exit(2);
        }
    }
    if (options.port < 1 || options.concurrency < 1)
        fail("--port and --concurrency are needed");
}

int main(int argc, char **argv)
{
    read_options(argc, argv);
    limit_lifetime((options.warm_ms + options.measure_ms) / 1000);
    loop_fd = epoll_create1(EPOLL_CLOEXEC);
    request_bytes =
        options.gets ? encode_get() : encode_request(request, options.port, options.path, options.headers);
    struct place *places = calloc((size_t)options.concurrency, sizeof *places);
    for (int i = 0; i < options.concurrency; i++)
        begin(&places[i]);
    run_until(now_us() + (uint64_t)options.warm_ms * 1000);
    memset(&latencies, 0, sizeof latencies);
    uint64_t start = now_us(), opened_before = opened;
    double cpu_before = cpu_seconds(), server_before = process_cpu_seconds(options.server_pid);
    run_until(start + (uint64_t)options.measure_ms * 1000);
    double seconds = (double)(now_us() - start) / 1e6, cpu = cpu_seconds() - cpu_before;
    double server_cpu = process_cpu_seconds(options.server_pid) - server_before;
    printf("{\"opened_per_second\":%.0f,\"p50_ms\":%.2f,\"p99_ms\":%.2f,\"seconds\":%.3f,\"load_cpu\":%.2f,"
           "\"server_cpu\":%.2f}\n",
           (double)(opened - opened_before) / seconds, latency_ms(&latencies, 0.50), latency_ms(&latencies, 0.99),
           seconds, cpu / seconds, server_cpu / seconds);
    return 0;
}
