/*
 * The load of the client protocol: clients that connect with a token, subscribe, and then do one
 * thing. JSON over WebSocket, one thread, one epoll loop.
 *
 * Question  publish: how long does a publication take from its sender back to it, and how many such
 *           round trips per second are there, with W clients that each have one in flight?
 *           open: how many clients per second connect, show a token, subscribe, and leave?
 *           recover: how many clients per second connect and get what they missed?
 * Method    Every client has a token of its own (a line of --tokens).
 *           publish: every client has a channel of its own: --channel and its number. Of N
 *           connections the first W keep one publication in flight: the next is sent
 *           when both the publication and the reply have come back. Each carries its number, and what
 *           comes back must be that one: lost, doubled or mixed up ends the run with an error.
 *           Latency: from send() to the recv() that brought the publication.
 *           open: C places; each connects, upgrades, sends connect and subscribe to --channel, waits
 *           for both answers, closes with a reset and begins again. Latency: from connect() to the
 *           last answer.
 *           recover: N clients, at most C of them on the way at a time. Each subscribes to a stream (a
 *           line of --streams: channel and epoch) from offset 0, and must be told "recovered" with
 *           --missed publications, numbered 0 and up, each once and in order. Latency: from connect()
 *           to that answer. They stay connected until the last has recovered.
 * Expected  The load can do about 300,000 round trips/s and open 25,000 connections/s; `load_cpu`
 *           near 1.0 means that it was the limit.
 *
 * Usage     talkers --question publish|open|recover --port P --path /x --tokens FILE
 *                   [--channel room:own-] [--streams FILE --missed 10] [--connections N]
 *                   [--windows 1,100,1000] [--concurrency 64] [--warm-ms 300] [--measure-ms 1000]
 *                   [--payload-bytes 116] [--header 'Name: value']... [--server-pid PID]
 *           One JSON line for each round on stdout. Exit status 1, with one line on stderr, when
 *           anything is not as expected.
 */
#define _GNU_SOURCE
#define LATENCY_STEP_US 10
#include "load.h"

enum {
    TEXT_BYTES_MAX = 4096,
    PAYLOAD_BYTES_MAX = 2000,
    LINES_MAX = 65536,
    ROUNDS_MAX = 64,
};

enum question { PUBLISH, OPEN, RECOVER };
enum state { AWAY, CONNECTING, UPGRADING, GREETING, READY };

struct client {
    struct stream stream;
    enum state state;
    int number;
    uint64_t started_at; /* connect(), or send() of the publication in flight */
    uint32_t expected;   /* number of that publication */
    int awaited;         /* bits: 1 the publication, 2 the reply */
};

static struct {
    enum question question;
    int port, connections, concurrency, warm_ms, measure_ms, payload_bytes, missed, server_pid;
    int window_count, windows[ROUNDS_MAX];
    const char *path, *channel;
    char headers[4096];
} options = {.concurrency = 64, .warm_ms = 300, .measure_ms = 1000, .payload_bytes = 116, .missed = 10,
             .path = "/", .channel = "room:own-"};

static char *tokens[LINES_MAX], *streams[LINES_MAX];
static int token_count, stream_count;
static struct client *clients;
static int loop_fd, begun, ready_count, window;
static uint64_t finished; /* round trips, or clients that were answered */
static struct latencies latencies;
static char request[REQUEST_BYTES_MAX], filler[PAYLOAD_BYTES_MAX];
static size_t request_bytes;

static void send_text(struct client *client, const char *text, size_t bytes)
{
    static unsigned char frame[TEXT_BYTES_MAX + 8];
    send_all(client->stream.fd, frame, encode_frame(frame, 1, text, bytes));
}

static void begin(struct client *client)
{
    client->started_at = now_us();
    client->state = CONNECTING;
    client->stream.fd = begin_connect(options.port);
    watch(loop_fd, EPOLL_CTL_ADD, client->stream.fd, EPOLLOUT, client);
    begun++;
}

static void leave(struct client *client)
{
    struct linger at_once = {.l_onoff = 1, .l_linger = 0};

    setsockopt(client->stream.fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
    close(client->stream.fd);
    client->stream.kept_bytes = 0;
    client->state = AWAY;
}

/* Say who we are and what we want, in two frames of one write. */
static void greet(struct client *client)
{
    static unsigned char frames[2 * TEXT_BYTES_MAX];
    char text[TEXT_BYTES_MAX];
    int number = client->number, bytes;
    size_t used;

    bytes = snprintf(text, sizeof text, "{\"id\":1,\"connect\":{\"token\":\"%s\"}}", tokens[number % token_count]);
    used = encode_frame(frames, 1, text, (size_t)bytes);
    if (options.question == RECOVER) {
        char *stream = streams[number % stream_count], *epoch = strchr(stream, ' ');
        bytes = snprintf(text, sizeof text,
                         "{\"id\":2,\"subscribe\":{\"channel\":\"%.*s\",\"recover\":true,\"epoch\":\"%s\"}}",
                         (int)(epoch - stream), stream, epoch + 1);
    } else if (options.question == OPEN) {
        bytes = snprintf(text, sizeof text, "{\"id\":2,\"subscribe\":{\"channel\":\"%s\"}}", options.channel);
    } else {
        bytes = snprintf(text, sizeof text, "{\"id\":2,\"subscribe\":{\"channel\":\"%s%d\"}}", options.channel, number);
    }
    used += encode_frame(frames + used, 1, text, (size_t)bytes);
    send_all(client->stream.fd, frames, used);
    client->state = GREETING;
}

static void publish(struct client *client)
{
    char text[TEXT_BYTES_MAX];
    int bytes = snprintf(text, sizeof text,
                         "{\"id\":%u,\"publish\":{\"channel\":\"%s%d\",\"data\":"
                         "{\"by\":\"ann\",\"text\":\"%s\",\"seq\":\"%08u\"}}}",
                         client->expected + 3, options.channel, client->number, filler, client->expected);
    client->awaited = 3;
    client->started_at = now_us();
    send_text(client, text, (size_t)bytes);
}

/* Read the number of a publication: the first one in a text; -1 where there is none. */
static long find_number(const char *text, size_t bytes, const char **end)
{
    const char *found = memmem(text, bytes, "\"seq\":\"", 7);
    if (!found)
        return -1;
    *end = found + 7;
    return atol(found + 7);
}

static void check_recovered(struct client *client, const char *text, size_t bytes)
{
    const char *at = text, *end = text + bytes;

    if (!memmem(text, bytes, "\"recovered\":true", 16))
        fail("client %d did not recover: %.*s", client->number, (int)bytes, text);
    for (int wanted = 0; wanted < options.missed; wanted++)
        if (find_number(at, (size_t)(end - at), &at) != wanted)
            fail("client %d misses publication %d: %.*s", client->number, wanted, (int)bytes, text);
    if (find_number(at, (size_t)(end - at), &at) != -1)
        fail("client %d got too many: %.*s", client->number, (int)bytes, text);
}

static void become_ready(struct client *client, const char *text, size_t bytes, uint64_t now)
{
    client->state = READY;
    ready_count++;
    if (options.question == PUBLISH)
        return;
    if (options.question == RECOVER)
        check_recovered(client, text, bytes);
    finished++;
    count_latency(&latencies, now - client->started_at);
}

/* Take half of a round trip; with the other half the next one begins. */
static void receive_half(struct client *client, int half, uint64_t now)
{
    if (!(client->awaited & half))
        fail("client %d got %s twice", client->number, half == 1 ? "a publication" : "a reply");
    client->awaited &= ~half;
    if (half == 1)
        count_latency(&latencies, now - client->started_at);
    if (!client->awaited) {
        finished++;
        client->expected++;
        if (client->number < window)
            publish(client);
    }
}

static void receive_line(struct client *client, const char *text, size_t bytes, uint64_t now)
{
    const char *end;

    if (bytes == 2) { /* a ping */
        send_text(client, "{}", 2);
    } else if (bytes > 8 && !memcmp(text, "{\"id\":", 6)) {
        uint32_t id = (uint32_t)atol(text + 6);
        if (bytes < 4096 && memmem(text, bytes, "\"error\":", 8))
            fail("client %d is refused: %.*s", client->number, (int)bytes, text);
        if (client->state == GREETING && id == 2)
            become_ready(client, text, bytes, now);
        else if (client->state == READY && id == client->expected + 3)
            receive_half(client, 2, now);
        else if (client->state != GREETING || id != 1)
            fail("client %d got an answer to nothing: %.*s", client->number, (int)bytes, text);
    } else if (client->state == READY && options.question == PUBLISH) {
        if (find_number(text, bytes, &end) != (long)client->expected)
            fail("client %d expected publication %u: %.*s", client->number, client->expected, (int)bytes, text);
        receive_half(client, 1, now);
    } else {
        fail("client %d did not expect: %.*s", client->number, (int)bytes, text);
    }
}

static size_t receive_frames(struct client *client, unsigned char *data, size_t bytes, uint64_t now)
{
    struct frame frame;
    size_t used = 0, length;

    while ((length = find_frame(data + used, bytes - used, &frame))) {
        if (frame.first_byte == 0x88)
            fail("client %d was closed with code %d", client->number,
                 frame.bytes >= 2 ? frame.payload[0] << 8 | frame.payload[1] : 1005);
        if (frame.first_byte != 0x81)
            fail("frame begins with 0x%02x", frame.first_byte);
        char *text = (char *)frame.payload, *end = text + frame.bytes;
        for (char *next; text < end; text = next + 1) {
            next = memchr(text, '\n', (size_t)(end - text));
            next = next ? next : end;
            receive_line(client, text, (size_t)(next - text), now);
        }
        used += length;
    }
    return used;
}

static void advance(struct client *client)
{
    if (client->state == CONNECTING) {
        check_connected(client->stream.fd);
        send_all(client->stream.fd, request, request_bytes);
        client->state = UPGRADING;
        watch(loop_fd, EPOLL_CTL_MOD, client->stream.fd, EPOLLIN, client);
        return;
    }
    size_t bytes = receive_stream(&client->stream), used = 0;
    if (!bytes)
        return;
    uint64_t now = now_us();
    if (client->state == UPGRADING && (used = receive_answer(input, bytes)))
        greet(client);
    if (client->state != UPGRADING)
        used += receive_frames(client, input + used, bytes - used, now);
    keep_rest(&client->stream, input + used, bytes - used);
    if (client->state == READY && options.question == OPEN) {
        leave(client);
        begin(client);
    }
}

static void turn(void)
{
    static struct epoll_event events[EVENTS_MAX];
    int count = epoll_wait(loop_fd, events, EVENTS_MAX, PATIENCE_MS);

    if (!count)
        fail("%d clients are ready and %llu were answered, then silence", ready_count, (unsigned long long)finished);
    for (int i = 0; i < count; i++)
        advance(events[i].data.ptr);
}

static void run_until(uint64_t end)
{
    while (now_us() < end)
        turn();
}

static void run_all(int count)
{
    while (ready_count < count) {
        while (begun < count && begun - ready_count < options.concurrency)
            begin(&clients[begun]);
        turn();
    }
}

static void print_round(uint64_t start, uint64_t before, double cpu, double server)
{
    double seconds = (double)(now_us() - start) / 1e6;
    printf("{\"in_flight\":%d,\"p50_ms\":%.2f,\"p99_ms\":%.2f,\"per_second\":%.0f,\"count\":%llu,"
           "\"seconds\":%.3f,\"load_cpu\":%.2f,\"server_cpu\":%.2f}\n",
           window, latency_ms(&latencies, 0.50), latency_ms(&latencies, 0.99), (double)(finished - before) / seconds,
           (unsigned long long)(finished - before), seconds, (cpu_seconds() - cpu) / seconds,
           (process_cpu_seconds(options.server_pid) - server) / seconds);
    fflush(stdout);
}

static void measure(void)
{
    run_until(now_us() + (uint64_t)options.warm_ms * 1000);
    memset(&latencies, 0, sizeof latencies);
    uint64_t start = now_us(), before = finished;
    double cpu = cpu_seconds(), server = process_cpu_seconds(options.server_pid);
    run_until(start + (uint64_t)options.measure_ms * 1000);
    print_round(start, before, cpu, server);
}

static void run_publications(void)
{
    run_all(options.connections);
    for (int i = 0; i < options.window_count; i++) {
        window = options.windows[i];
        for (int number = 0; number < window; number++)
            publish(&clients[number]);
        measure();
        int running = window;
        window = 0;
        for (int number = 0; number < running; number++)
            while (clients[number].awaited)
                turn();
    }
}

static void run_recovery(void)
{
    uint64_t start = now_us();
    double cpu = cpu_seconds(), server = process_cpu_seconds(options.server_pid);

    run_all(options.connections);
    print_round(start, 0, cpu, server);
}

static int read_lines(const char *path, char **lines)
{
    FILE *file = fopen(path, "r");
    size_t size = 0;
    ssize_t bytes;
    int count = 0;

    if (!file)
        fail("%s: %s", path, strerror(errno));
    while (count < LINES_MAX && (bytes = getline(&lines[count], &size, file)) > 1) {
        lines[count++][bytes - 1] = 0;
        size = 0;
    }
    fclose(file);
    return count;
}

static void read_windows(char *text)
{
    for (char *item = strtok(text, ","); item; item = strtok(NULL, ",")) {
        int in_flight = atoi(item);
        if (options.window_count == ROUNDS_MAX || in_flight < 1)
            fail("--windows: at most %d numbers from 1", ROUNDS_MAX);
        options.windows[options.window_count++] = in_flight;
        if (in_flight > options.connections)
            options.connections = in_flight;
    }
}

static void read_options(int argc, char **argv)
{
    static const struct option names[] = {
        {"question", 1, 0, 'q'},   {"port", 1, 0, 'p'},       {"path", 1, 0, 'u'},        {"tokens", 1, 0, 't'},
        {"channel", 1, 0, 'c'},    {"streams", 1, 0, 'r'},    {"missed", 1, 0, 'k'},      {"connections", 1, 0, 'n'},
        {"windows", 1, 0, 'w'},    {"concurrency", 1, 0, 'x'}, {"warm-ms", 1, 0, 'a'},    {"measure-ms", 1, 0, 'm'},
        {"payload-bytes", 1, 0, 'b'}, {"header", 1, 0, 'h'},  {"server-pid", 1, 0, 's'},  {0, 0, 0, 0}};
    int name;

    while ((name = getopt_long(argc, argv, "", names, NULL)) != -1) {
        switch (name) {
        case 'q':
            options.question = !strcmp(optarg, "open") ? OPEN : !strcmp(optarg, "recover") ? RECOVER : PUBLISH;
            break;
        case 'p': options.port = atoi(optarg); break;
        case 'u': options.path = optarg; break;
        case 't': token_count = read_lines(optarg, tokens); break;
        case 'c': options.channel = optarg; break;
        case 'r': stream_count = read_lines(optarg, streams); break;
        case 'k': options.missed = atoi(optarg); break;
        case 'n': options.connections = atoi(optarg); break;
        case 'w': read_windows(optarg); break;
        case 'x': options.concurrency = atoi(optarg); break;
        case 'a': options.warm_ms = atoi(optarg); break;
        case 'm': options.measure_ms = atoi(optarg); break;
        case 'b': options.payload_bytes = atoi(optarg); break;
        case 'h': add_header(options.headers, sizeof options.headers, optarg); break;
        case 's': options.server_pid = atoi(optarg); break;
        default: exit(2);
        }
    }
    if (options.question == OPEN)
        options.connections = options.concurrency;
    if (options.port < 1 || options.connections < 1 || options.concurrency < 1 || !token_count)
        fail("--port, --tokens and --connections or --windows are needed");
    if (options.question == RECOVER && !stream_count)
        fail("--streams is needed");
    if (options.payload_bytes < 64 || options.payload_bytes > PAYLOAD_BYTES_MAX)
        fail("--payload-bytes: 64 to %d", PAYLOAD_BYTES_MAX);
}

int main(int argc, char **argv)
{
    read_options(argc, argv);
    limit_lifetime(options.window_count * (options.warm_ms + options.measure_ms) / 1000);
    memset(filler, 'x', (size_t)options.payload_bytes - (sizeof "{\"by\":\"ann\",\"text\":\"\",\"seq\":\"00000000\"}" - 1));
    loop_fd = epoll_create1(EPOLL_CLOEXEC);
    request_bytes = encode_request(request, options.port, options.path, options.headers);
    clients = calloc((size_t)options.connections, sizeof *clients);
    for (int i = 0; i < options.connections; i++)
        clients[i].number = i;
    if (options.question == PUBLISH) {
        run_publications();
    } else if (options.question == RECOVER) {
        run_recovery();
    } else {
        for (int i = 0; i < options.connections; i++)
            begin(&clients[i]);
        measure();
    }
    return 0;
}
