/*
 * The load of the client protocol: clients that connect with a token, subscribe, and then do one
 * thing. JSON over WebSocket, one thread, one epoll loop. Publishing can be asked of others, too.
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
 *           With --reader-port each has a second connection, to another node, that hears what the
 *           first publishes; the first subscribes to nothing.
 *           With another dialect nobody replies, and a client's own number, which stands for {} in
 *           --path, tells the server where it publishes and what it hears.
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
 *                   [--dialect protocol|socketio|text] [--broker-pid PID]
 *                   [--reader-port P --reader-path /x --reader-pid PID]
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
enum dialect { PROTOCOL, SOCKETIO, TEXT };

struct client {
    struct stream stream;
    enum state state;
    int number;
    struct client *publisher; /* of what it hears: itself, with --reader-port another one, which hears nothing */
    uint64_t started_at;      /* connect(), or send() of the publication in flight */
    uint32_t expected;   /* number of that publication */
    int awaited;         /* bits: 1 the publication, 2 the reply */
};

static struct {
    enum question question;
    enum dialect dialect;
    struct processes processes;
    int port, reader_port, connections, concurrency, warm_ms, measure_ms, payload_bytes, missed;
    int window_count, windows[ROUNDS_MAX];
    const char *path, *reader_path, *channel;
    char headers[4096];
} options = {.concurrency = 64, .warm_ms = 300, .measure_ms = 1000, .payload_bytes = 116, .missed = 10,
             .path = "/", .channel = "room:own-"};

static char *tokens[LINES_MAX], *streams[LINES_MAX];
static int token_count, stream_count;
static struct client *clients;
static int loop_fd, begun, ready_count, window;
static uint64_t finished; /* round trips, or clients that were answered */
static struct latencies latencies;
static char filler[PAYLOAD_BYTES_MAX];

static void send_text(struct client *client, const char *text, size_t bytes)
{
    static unsigned char frame[TEXT_BYTES_MAX + 8];
    send_all(client->stream.fd, frame, encode_frame(frame, 1, text, bytes));
}

static int is_reader(const struct client *client)
{
    return client->publisher != client;
}

/* Whether what is published arrives here; the last number of a greeting tells it. */
static int does_hear(const struct client *client)
{
    return !options.reader_port || is_reader(client);
}

static void begin(struct client *client)
{
    client->started_at = now_us();
    client->state = CONNECTING;
    client->stream.fd = begin_connect(is_reader(client) ? options.reader_port : options.port);
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

/* Ask for an upgrade; {} in the path becomes the client's number. */
static void send_request(struct client *client)
{
    static char request[REQUEST_BYTES_MAX], path[512];
    const char *wanted = is_reader(client) ? options.reader_path : options.path, *place = strstr(wanted, "{}");

    if (place) {
        snprintf(path, sizeof path, "%.*s%d%s", (int)(place - wanted), wanted, client->number, place + 2);
        wanted = path;
    }
    send_all(client->stream.fd, request,
             encode_request(request, is_reader(client) ? options.reader_port : options.port, wanted, options.headers));
}

/* Say who we are and what we want, in two frames of one write. */
static void greet_by_protocol(struct client *client)
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
    if (does_hear(client))
        used += encode_frame(frames + used, 1, text, (size_t)bytes);
    send_all(client->stream.fd, frames, used);
}

static void publish(struct client *client)
{
    char text[TEXT_BYTES_MAX];
    const char *after = options.dialect == PROTOCOL ? "}}" : options.dialect == SOCKETIO ? "]" : "";
    int bytes = 0;

    if (options.dialect == PROTOCOL)
        bytes = snprintf(text, sizeof text, "{\"id\":%u,\"publish\":{\"channel\":\"%s%d\",\"data\":",
                         client->expected + 3, options.channel, client->number);
    else if (options.dialect == SOCKETIO)
        bytes = snprintf(text, sizeof text, "42[\"bench\",");
    bytes += snprintf(text + bytes, sizeof text - (size_t)bytes, "{\"by\":\"ann\",\"text\":\"%s\",\"seq\":\"%08u\"}%s",
                      filler, client->expected, after);
    client->awaited = options.dialect == PROTOCOL ? 3 : 1;
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

static void greet(struct client *client, uint64_t now)
{
    client->state = GREETING;
    if (options.dialect == PROTOCOL)
        greet_by_protocol(client);
    else if (options.dialect == TEXT)
        become_ready(client, "", 0, now);
}

/* Take half of a round trip, the publication (1) or the reply (2); with the other half the next one begins. */
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

static void receive_publication(struct client *client, const char *text, size_t bytes, uint64_t now)
{
    struct client *publisher = client->publisher;
    const char *end;

    if (client->state != READY || options.question != PUBLISH || !does_hear(client))
        fail("client %d did not expect: %.*s", client->number, (int)bytes, text);
    if (find_number(text, bytes, &end) != (long)publisher->expected)
        fail("client %d expected publication %u: %.*s", client->number, publisher->expected, (int)bytes, text);
    receive_half(publisher, 1, now);
}

/* One reply or push of the client protocol. */
static void receive_line(struct client *client, const char *text, size_t bytes, uint64_t now)
{
    if (bytes == 2) { /* a ping */
        send_text(client, "{}", 2);
    } else if (bytes > 8 && !memcmp(text, "{\"id\":", 6)) {
        uint32_t id = (uint32_t)atol(text + 6);
        if (bytes < 4096 && memmem(text, bytes, "\"error\":", 8))
            fail("client %d is refused: %.*s", client->number, (int)bytes, text);
        if (client->state == GREETING && id == (does_hear(client) ? 2 : 1))
            become_ready(client, text, bytes, now);
        else if (client->state == READY && id == client->expected + 3)
            receive_half(client, 2, now);
        else if (client->state != GREETING || id != 1)
            fail("client %d got an answer to nothing: %.*s", client->number, (int)bytes, text);
    } else {
        receive_publication(client, text, bytes, now);
    }
}

static void receive_socketio(struct client *client, const char *text, size_t bytes, uint64_t now)
{
    if (bytes && text[0] == '2') /* Engine.IO ping */
        send_text(client, "3", 1);
    else if (client->state == GREETING && bytes && text[0] == '0') /* Engine.IO open: ask for the namespace */
        send_text(client, "40", 2);
    else if (client->state == GREETING && bytes >= 2 && !memcmp(text, "40", 2))
        become_ready(client, text, bytes, now);
    else
        receive_publication(client, text, bytes, now);
}

static void receive_text(struct client *client, const char *text, size_t bytes, uint64_t now)
{
    if (options.dialect == SOCKETIO) {
        receive_socketio(client, text, bytes, now);
    } else if (options.dialect == TEXT) {
        receive_publication(client, text, bytes, now);
    } else {
        for (const char *end = text + bytes, *next; text < end; text = next + 1) {
            next = memchr(text, '\n', (size_t)(end - text));
            next = next ? next : end;
            receive_line(client, text, (size_t)(next - text), now);
        }
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
        if (frame.first_byte == 0x89)
            send_frame(client->stream.fd, 0xA, frame.payload, frame.bytes);
        else if (frame.first_byte == 0x81)
            receive_text(client, (char *)frame.payload, frame.bytes, now);
        else
            fail("frame begins with 0x%02x", frame.first_byte);
        used += length;
    }
    return used;
}

static void advance(struct client *client)
{
    if (client->state == CONNECTING) {
        check_connected(client->stream.fd);
        send_request(client);
        client->state = UPGRADING;
        watch(loop_fd, EPOLL_CTL_MOD, client->stream.fd, EPOLLIN, client);
        return;
    }
    size_t bytes = receive_stream(&client->stream), used = 0;
    if (!bytes)
        return;
    uint64_t now = now_us();
    if (client->state == UPGRADING && (used = receive_answer(input, bytes)))
        greet(client, now);
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

static void print_round(uint64_t start, uint64_t before, struct cpu_times times)
{
    double seconds = (double)(now_us() - start) / 1e6;
    printf("{\"in_flight\":%d,\"p50_ms\":%.2f,\"p99_ms\":%.2f,\"per_second\":%.0f,\"count\":%llu,\"seconds\":%.3f,",
           window, latency_ms(&latencies, 0.50), latency_ms(&latencies, 0.99), (double)(finished - before) / seconds,
           (unsigned long long)(finished - before), seconds);
    print_cpu_shares(cpu_shares(&options.processes, times, seconds));
}

static void measure(void)
{
    run_until(now_us() + (uint64_t)options.warm_ms * 1000);
    memset(&latencies, 0, sizeof latencies);
    uint64_t start = now_us(), before = finished;
    struct cpu_times times = read_cpu_times(&options.processes);
    run_until(start + (uint64_t)options.measure_ms * 1000);
    print_round(start, before, times);
}

static void run_publications(void)
{
    run_all(options.connections * (options.reader_port ? 2 : 1));
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
    struct cpu_times times = read_cpu_times(&options.processes);

    run_all(options.connections);
    print_round(start, 0, times);
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
        {"payload-bytes", 1, 0, 'b'}, {"header", 1, 0, 'h'},  {"server-pid", 1, 0, 's'},  {"dialect", 1, 0, 'd'},
        {"reader-port", 1, 0, 'P'}, {"reader-path", 1, 0, 'U'}, {"reader-pid", 1, 0, 'S'}, {"broker-pid", 1, 0, 'B'},
        {0, 0, 0, 0}};
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
        case 's': options.processes.server = atoi(optarg); break;
        case 'S': options.processes.reader = atoi(optarg); break;
        case 'B': options.processes.broker = atoi(optarg); break;
        case 'P': options.reader_port = atoi(optarg); break;
        case 'U': options.reader_path = optarg; break;
        case 'd':
            options.dialect = !strcmp(optarg, "socketio") ? SOCKETIO : !strcmp(optarg, "text") ? TEXT : PROTOCOL;
            break;
        default: exit(2);
        }
    }
    if (options.question == OPEN)
        options.connections = options.concurrency;
    if (options.port < 1 || options.connections < 1 || options.concurrency < 1)
        fail("--port, and --connections or --windows are needed");
    if (options.dialect == PROTOCOL ? !token_count : options.question != PUBLISH)
        fail("the protocol needs --tokens, and other dialects can only publish");
    if (!options.reader_path)
        options.reader_path = options.path;
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
    clients = calloc(2 * (size_t)options.connections, sizeof *clients);
    for (int i = 0; i < 2 * options.connections; i++) {
        clients[i].number = i % options.connections;
        clients[i].publisher = &clients[i % options.connections]; /* the second half are readers */
    }
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
