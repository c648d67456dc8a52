/*
 * The load of an echo: clients that say something and wait to hear it again.
 *
 * Question  How many echoes per second does a server reach, and how late are they when it has half
 *           of that to do?
 * Method    One epoll loop with C connections. With --rate 0 each has one message in flight and
 *           sends the next when its echo is there: the peak. With --rate R messages are due at even
 *           distances, R per second in all, on one connection after the other, whether or not the
 *           last echo is there (an open loop); a latency counts from the moment at which the message
 *           was due, so that a server that stops for a while is charged for all who had to wait. The
 *           loop does not sleep then, because a sleep ends late. Every echo is compared with what
 *           was sent.
 * Expected  The peak of a server that does nothing else is 60,000 to 150,000 echoes/s on a core. At
 *           half load p50 is little more than the 15 to 40 µs of two send() and two recv().
 *           `late_p99_ms` says how late the load itself was; much of p99 means a disturbed machine.
 *
 * Usage     echoes --port P --path /x [--connections 100] [--rate 0] [--warm-ms 300]
 *                  [--measure-ms 1000] [--payload-bytes 116] [--header 'Name: value']...
 *                  [--server-pid PID]
 *           One JSON line on stdout. Exit status 1, with one line on stderr, when an echo is wrong or
 *           does not come, or the server falls behind by IN_FLIGHT_MAX messages on a connection.
 */
#define _GNU_SOURCE
#define LATENCY_STEP_US 1
#include "load.h"

enum { IN_FLIGHT_MAX = 4096, PAYLOAD_BYTES_MAX = 2000, OPENING_MAX = 64 };
enum state { CONNECTING, UPGRADING, READY };

struct connection {
    struct stream stream;
    enum state state;
    uint32_t sent, received; /* numbers of the next message and of the next echo */
    uint64_t *due_at;        /* ring of IN_FLIGHT_MAX */
};

static struct {
    int port, connections, rate, warm_ms, measure_ms, payload_bytes, server_pid;
    const char *path;
    char headers[4096];
} options = {.connections = 100, .warm_ms = 300, .measure_ms = 1000, .payload_bytes = 116, .path = "/"};

static struct connection *connections;
static int loop_fd, opened_count, ready_count, is_sending;
static uint64_t echoed, in_flight, counted_from;
static struct latencies latencies, delays;

/* Write the message: the filler is what makes its length. */
static size_t write_text(char *text, uint32_t number)
{
    int filler = options.payload_bytes - (int)sizeof "{\"text\":\"\",\"seq\":\"00000000\"}" + 1;
    int length = sprintf(text, "{\"text\":\"%*s\",\"seq\":\"%08u\"}", filler, "", number);
    return (size_t)length;
}

static void send_text(struct connection *connection, uint64_t due_at)
{
    unsigned char frame[PAYLOAD_BYTES_MAX + 8];
    char text[PAYLOAD_BYTES_MAX + 8];

    if (connection->sent - connection->received == IN_FLIGHT_MAX)
        fail("connection %d: %d messages without an echo", (int)(connection - connections), IN_FLIGHT_MAX);
    connection->due_at[connection->sent % IN_FLIGHT_MAX] = due_at;
    size_t bytes = encode_frame(frame, 1, text, write_text(text, connection->sent));
    connection->sent++;
    in_flight++;
    send_all(connection->stream.fd, frame, bytes);
}

static void receive_echo(struct connection *connection, const struct frame *frame, uint64_t now)
{
    char text[PAYLOAD_BYTES_MAX + 8];
    size_t bytes = write_text(text, connection->received);

    if (connection->received == connection->sent || frame->bytes != bytes || memcmp(frame->payload, text, bytes))
        fail("connection %d expected echo %08u, got: %.*s", (int)(connection - connections), connection->received,
             (int)(frame->bytes < 200 ? frame->bytes : 200), (char *)frame->payload);
    uint64_t due_at = connection->due_at[connection->received++ % IN_FLIGHT_MAX];
    echoed++;
    in_flight--;
    if (due_at >= counted_from)
        count_latency(&latencies, now - due_at);
    if (is_sending && !options.rate)
        send_text(connection, now_us());
}

static void receive_frames(struct connection *connection, unsigned char *data, size_t bytes, uint64_t now)
{
    struct frame frame;
    size_t used = 0, length;

    while ((length = find_frame(data + used, bytes - used, &frame))) {
        if (frame.first_byte == 0x81)
            receive_echo(connection, &frame, now);
        else if (frame.first_byte == 0x89)
            send_frame(connection->stream.fd, 0xA, frame.payload, frame.bytes);
        else
            fail("connection %d got a frame that begins with 0x%02x", (int)(connection - connections),
                 frame.first_byte);
        used += length;
    }
    keep_rest(&connection->stream, data + used, bytes - used);
}

static void advance(struct connection *connection)
{
    char request[REQUEST_BYTES_MAX];
    size_t bytes;

    if (connection->state == CONNECTING) {
        check_connected(connection->stream.fd);
        send_all(connection->stream.fd, request, encode_request(request, options.port, options.path, options.headers));
        connection->state = UPGRADING;
        watch(loop_fd, EPOLL_CTL_MOD, connection->stream.fd, EPOLLIN, connection);
        return;
    }
    bytes = receive_stream(&connection->stream);
    if (!bytes)
        return;
    if (connection->state == READY) {
        receive_frames(connection, input, bytes, now_us());
    } else if (receive_answer(input, bytes)) {
        keep_rest(&connection->stream, NULL, 0);
        connection->state = READY;
        ready_count++;
    } else {
        keep_rest(&connection->stream, input, bytes);
    }
}

static int turn(int timeout_ms)
{
    static struct epoll_event events[EVENTS_MAX];
    int count = epoll_wait(loop_fd, events, EVENTS_MAX, timeout_ms);

    for (int i = 0; i < count; i++)
        advance(events[i].data.ptr);
    return count;
}

static void open_all(void)
{
    while (ready_count < options.connections) {
        while (opened_count < options.connections && opened_count - ready_count < OPENING_MAX) {
            struct connection *connection = &connections[opened_count++];
            connection->due_at = calloc(IN_FLIGHT_MAX, sizeof *connection->due_at);
            connection->stream.fd = begin_connect(options.port);
            watch(loop_fd, EPOLL_CTL_ADD, connection->stream.fd, EPOLLOUT, connection);
        }
        if (turn(PATIENCE_MS) == 0)
            fail("%d of %d connections ready, then silence", ready_count, options.connections);
    }
}

/* One message in flight on each connection, until `end`. Who fell silent is found out afterwards. */
static void run_peak_until(uint64_t end)
{
    for (uint64_t now = now_us(); now < end; now = now_us())
        turn((int)((end - now) / 1000) + 1);
}

/* `rate` messages per second, due at even distances from `start` on, until `end`. */
static void run_paced(uint64_t start, uint64_t end)
{
    uint64_t count = 0, due_at = start;

    for (uint64_t now = now_us(); due_at < end; now = now_us()) {
        for (; due_at <= now && due_at < end; due_at = start + count * 1000000 / (uint64_t)options.rate) {
            if (due_at >= counted_from)
                count_latency(&delays, now_us() - due_at);
            send_text(&connections[count++ % (uint64_t)options.connections], due_at);
        }
        turn(0);
    }
}

static void read_options(int argc, char **argv)
{
    static const struct option names[] = {
        {"port", 1, 0, 'p'},          {"path", 1, 0, 'u'},   {"connections", 1, 0, 'n'}, {"rate", 1, 0, 'r'},
        {"warm-ms", 1, 0, 'a'},       {"header", 1, 0, 'h'}, {"measure-ms", 1, 0, 'm'},
        {"payload-bytes", 1, 0, 'b'}, {"server-pid", 1, 0, 's'}, {0, 0, 0, 0}};
    int name;

    while ((name = getopt_long(argc, argv, "", names, NULL)) != -1) {
        switch (name) {
        case 'p': options.port = atoi(optarg); break;
        case 'u': options.path = optarg; break;
        case 'n': options.connections = atoi(optarg); break;
        case 'r': options.rate = atoi(optarg); break;
        case 'a': options.warm_ms = atoi(optarg); break;
        case 'm': options.measure_ms = atoi(optarg); break;
        case 'b': options.payload_bytes = atoi(optarg); break;
        case 's': options.server_pid = atoi(optarg); break;
        case 'h': add_header(options.headers, sizeof options.headers, optarg); break;
        default: exit(2);
        }
    }
    if (options.port < 1 || options.connections < 1 || options.rate < 0)
        fail("--port and --connections are needed");
    if (options.payload_bytes < 32 || options.payload_bytes > PAYLOAD_BYTES_MAX)
        fail("--payload-bytes: 32 to %d", PAYLOAD_BYTES_MAX);
}

int main(int argc, char **argv)
{
    read_options(argc, argv);
    limit_lifetime((options.warm_ms + options.measure_ms + PATIENCE_MS) / 1000);
    loop_fd = epoll_create1(EPOLL_CLOEXEC);
    connections = calloc((size_t)options.connections, sizeof *connections);
    open_all();
    uint64_t start = now_us(), warm_end = start + (uint64_t)options.warm_ms * 1000;
    uint64_t end = warm_end + (uint64_t)options.measure_ms * 1000;
    counted_from = warm_end;
    is_sending = 1;
    for (int i = 0; i < options.connections && !options.rate; i++)
        send_text(&connections[i], now_us());
    if (options.rate)
        run_paced(start, warm_end);
    else
        run_peak_until(warm_end);
    uint64_t from = now_us(), echoed_before = echoed;
    double cpu_before = cpu_seconds(), server_before = process_cpu_seconds(options.server_pid);
    if (options.rate)
        run_paced(warm_end, end);
    else
        run_peak_until(end);
    double seconds = (double)(now_us() - from) / 1e6, cpu = cpu_seconds() - cpu_before;
    double server_cpu = process_cpu_seconds(options.server_pid) - server_before;
    double echoes = (double)(echoed - echoed_before);
    is_sending = 0;
    while (in_flight)
        if (turn(PATIENCE_MS) == 0)
            fail("%llu echoes lost", (unsigned long long)in_flight);
    printf("{\"echoes_per_second\":%.0f,\"p50_ms\":%.3f,\"p99_ms\":%.3f,\"late_p99_ms\":%.3f,\"seconds\":%.3f,"
           "\"load_cpu\":%.2f,\"server_cpu\":%.2f}\n",
           echoes / seconds, latency_ms(&latencies, 0.50), latency_ms(&latencies, 0.99), latency_ms(&delays, 0.99),
           seconds, cpu / seconds, server_cpu / seconds);
    return 0;
}
