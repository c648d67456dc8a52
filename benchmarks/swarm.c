/*
 * The load of a room: many WebSocket clients in one thread, the publisher among them.
 *
 * Question  How long does a publication take to reach N subscribers, and how many deliveries per
 *           second does the server manage, with W publications in flight all the time?
 * Method    One epoll loop opens N connections (RFC 6455 handshake). Connection 0 is the publisher
 *           and a subscriber like the others. It sends W publications; whenever all N deliveries of
 *           one have arrived it sends the next. Every publication carries its number, and every
 *           delivery is checked against the number its connection expects next: a message that is
 *           lost, doubled or out of order ends the run with an error. A latency is the time from the
 *           publisher's send() to the recv() that brought the delivery.
 *           Rate: deliveries between the end of the warm-up and the end of the round. Latencies: all
 *           of the round, because a slow server may not finish one publication within it.
 *           With --deflate every connection offers permessage-deflate (RFC 7692) as a browser does,
 *           and every compressed delivery is inflated; where the server keeps no context, bytes that
 *           equal those another connection got for the same publication are inflated once.
 * Expected  It can count about 10 million deliveries/s when they come joined, and 600,000 recv()
 *           calls/s when they come one by one. `load_cpu` says how busy its core was: near 1.0
 *           means that the load, not the server, was the limit. `server_cpu` is the same for the
 *           server: much below 1.0 means that it waited, for the load or for the machine.
 *
 * Usage     swarm --port P --path /x --connections N [--windows 1,8,64] [--warm-ms 300]
 *                 [--measure-ms 1000] [--payload-bytes 116] [--payload filler|rows]
 *                 [--dialect text|socketio|protocol] [--deflate 1] [--header 'Name: value']...
 *                 [--channel NAME --tokens FILE] [--hold SECONDS] [--server-pid PID]
 *                 [--reader-port P --reader-pid PID] [--broker-pid PID]
 *           With --reader-port all connections but the publisher's go there, to another node.
 *           With the dialect `protocol` every connection speaks the client protocol in JSON: it
 *           shows a token, a line of the file (those behind the last begin at the first again),
 *           subscribes, and answers pings; it is ready with the answer.
 *           One JSON line per fact on stdout: {"ready":...}, then one per round. With --hold, the
 *           connections stay open, pings answered, until stdin ends or the time is over.
 *           Exit status 1, with one line on stderr, when anything is not as expected.
 */
#define _GNU_SOURCE
#define LATENCY_STEP_US 10
#include "load.h"

#if __has_include(<zlib.h>)
#include <zlib.h>
#else
/* Without the header only --deflate is missing. */
typedef struct { int unused; } z_stream;
#define WITHOUT_ZLIB
#endif

enum {
    OPENING_MAX = 64,        /* connections in connect or handshake at a time */
    IN_FLIGHT_MAX = 4096,    /* ring of publications; a power of two */
    PAYLOAD_BYTES_MAX = 2000,
    TEXT_BYTES_MAX = PAYLOAD_BYTES_MAX + 256, /* with what a dialect puts around it */
    TOKEN_BYTES_MAX = 1024,
    ROUNDS_MAX = 64,
    SETTLE_MS = 200,         /* from the last handshake to the first publication */
    WINDOW_BITS = 15,        /* of inflation: what any server may use */
};

enum state { CONNECTING, UPGRADING, GREETING, READY };
enum deflate { PLAIN, EACH_MESSAGE, WITH_CONTEXT };

struct connection {
    struct stream stream;
    enum state state;
    enum deflate deflate; /* what the server answered */
    uint32_t expected;    /* number of the publication that must come next */
    z_stream *inflater;   /* only WITH_CONTEXT */
};

/* What a publication looked like when it came compressed, for those who get the same bytes. */
struct inflated {
    uint32_t number;
    size_t compressed_bytes, bytes;
    unsigned char compressed[TEXT_BYTES_MAX], text[TEXT_BYTES_MAX];
};

static struct {
    struct processes processes;
    int port, reader_port, connections, warm_ms, measure_ms, payload_bytes, hold_seconds;
    int is_socketio, is_protocol, has_rows, does_deflate;
    int window_count, windows[ROUNDS_MAX];
    const char *path, *channel;
    char headers[4096];
} options = {.path = "/", .channel = "bench", .warm_ms = 300, .measure_ms = 1000, .payload_bytes = 116};

static struct connection *swarm;
static char *tokens, *next_token;
static int loop_fd, ready_count, opened_count;

/* The publications of the running round. */
static uint32_t published, completed, to_publish;
static uint64_t sent_at[IN_FLIGHT_MAX];
static int missing[IN_FLIGHT_MAX]; /* deliveries that have not arrived */
static int is_publishing;
static uint64_t delivered, compressed, pings, bytes_in;
static struct latencies latencies;
static struct inflated *seen[IN_FLIGHT_MAX];

static uint32_t random_below(uint32_t limit)
{
    static uint32_t state = 88172645; /* the same numbers in every run */
    state ^= state << 13, state ^= state >> 17, state ^= state << 5;
    return state % limit;
}

/* Write JSON that says as much as people's payloads do: rows with names, numbers and flags, filled
 * up to `bytes` with a text. */
static void write_rows(char *out, int bytes)
{
    static const char *names[] = {"kettle", "garden chair", "lamp", "bookshelf", "towel", "desk", "carpet", "mirror"};
    int used = sprintf(out, "\",\"rows\":[");

    for (;;) {
        char row[128];
        int length = snprintf(row, sizeof row, "{\"id\":%u,\"name\":\"%s\",\"price\":\"%u.%02u\",\"sold\":%s},",
                              10000 + random_below(90000), names[random_below(8)], random_below(500),
                              random_below(100), random_below(2) ? "true" : "false");
        if (used + length > bytes - 16)
            break;
        memcpy(out + used, row, (size_t)length + 1);
        used += length;
    }
    used += sprintf(out + used, "0],\"more\":\"");
    memset(out + used, 'x', (size_t)(bytes - used));
    out[bytes] = 0;
}

/* Send `to_publish` publications in one write. */
static void publish(void)
{
    static unsigned char frames[IN_FLIGHT_MAX * (TEXT_BYTES_MAX + 8)];
    char text[TEXT_BYTES_MAX], filler[PAYLOAD_BYTES_MAX], before[160] = "";
    const char *after = options.is_socketio ? "]" : options.is_protocol ? "}}" : "";
    /* {"by":"ann","text":"<filler>","seq":"00000042"} */
    int filler_bytes = options.payload_bytes - (int)sizeof "{\"by\":\"ann\",\"text\":\"\",\"seq\":\"00000000\"}" + 1;
    size_t bytes = 0;

    memset(filler, 'x', (size_t)filler_bytes);
    filler[filler_bytes] = 0;
    while (to_publish) {
        if (options.is_socketio)
            strcpy(before, "42[\"bench\",");
        else if (options.is_protocol)
            snprintf(before, sizeof before, "{\"id\":%u,\"publish\":{\"channel\":\"%s\",\"data\":",
                     published + 3, options.channel);
        if (options.has_rows)
            write_rows(filler, filler_bytes);
        int length = snprintf(text, sizeof text, "%s{\"by\":\"ann\",\"text\":\"%s\",\"seq\":\"%08u\"}%s",
                              before, filler, published, after);
        bytes += encode_frame(frames + bytes, 1, text, (size_t)length);
        missing[published % IN_FLIGHT_MAX] = options.connections;
        sent_at[published % IN_FLIGHT_MAX] = now_us();
        published++;
        to_publish--;
    }
    send_all(swarm[0].stream.fd, frames, bytes);
}

static void receive_delivery(struct connection *connection, const char *text, size_t bytes, uint64_t now)
{
    /* The number stands at a fixed distance from the end: 00000042"} or 00000042"}]. */
    size_t tail = options.is_socketio ? 11 : 10;
    uint32_t number = 0;

    if (bytes >= tail)
        for (const char *digit = text + bytes - tail, *end = digit + 8; digit < end; digit++)
            number = number * 10 + (uint32_t)(*digit - '0');
    if (bytes < tail || number != connection->expected || number >= published)
        fail("connection %d expected publication %08u, got: %.*s", (int)(connection - swarm),
             connection->expected, (int)(bytes < 200 ? bytes : 200), text);
    connection->expected++;
    delivered++;
    count_latency(&latencies, now - sent_at[number % IN_FLIGHT_MAX]);
    if (--missing[number % IN_FLIGHT_MAX] == 0) {
        completed++;
        to_publish += (uint32_t)is_publishing;
    }
}

static void send_text(struct connection *connection, const char *text)
{
    static unsigned char frame[TOKEN_BYTES_MAX + 256];
    send_all(connection->stream.fd, frame, encode_frame(frame, 1, text, strlen(text)));
}

/* Begin to speak the client protocol: who we are, and what we listen to. */
static void send_greeting(struct connection *connection)
{
    char text[TOKEN_BYTES_MAX + 200];
    size_t bytes = strcspn(next_token, "\n");

    snprintf(text, sizeof text, "{\"id\":1,\"connect\":{\"token\":\"%.*s\"}}", (int)bytes, next_token);
    send_text(connection, text);
    next_token += bytes + (next_token[bytes] == '\n');
    if (!*next_token)
        next_token = tokens;
    snprintf(text, sizeof text, "{\"id\":2,\"subscribe\":{\"channel\":\"%s\"}}", options.channel);
    send_text(connection, text);
    connection->state = GREETING;
}

static void read_tokens(const char *path)
{
    FILE *file = fopen(path, "r");
    if (!file)
        fail("%s: %s", path, strerror(errno));
    size_t size = 0;
    if (getdelim(&tokens, &size, 0, file) < 8 || tokens[0] == '\n')
        fail("%s holds no tokens", path);
    fclose(file);
    next_token = tokens;
}

static void become_ready(struct connection *connection)
{
    connection->state = READY;
    ready_count++;
}

/* One reply or push of the client protocol. */
static void receive_line(struct connection *connection, const char *text, size_t bytes, uint64_t now)
{
    static const char head[] = "{\"push\":{\"channel\":\"", middle[] = "\",\"pub\":{\"data\":";

    if (bytes == 2) { /* {}: a ping */
        pings++;
        send_text(connection, "{}");
    } else if (bytes > 6 && !memcmp(text, "{\"id\":", 6)) {
        if (memmem(text, bytes, "\"error\":", 8))
            fail("refused: %.*s", (int)bytes, text);
        if (connection->state == GREETING && text[6] == '2')
            become_ready(connection);
    } else if (connection->state == READY && options.window_count) {
        size_t length = sizeof head + strlen(options.channel) + sizeof middle - 2 + (size_t)options.payload_bytes;
        if (bytes < length)
            fail("not a publication: %.*s", (int)bytes, text);
        receive_delivery(connection, text, length, now);
    }
}

static void receive_text(struct connection *connection, const char *text, size_t bytes, uint64_t now)
{
    if (options.is_protocol) {
        for (const char *end = text + bytes, *next; text < end; text = next + 1) {
            next = memchr(text, '\n', (size_t)(end - text));
            next = next ? next : end;
            receive_line(connection, text, (size_t)(next - text), now);
        }
    } else if (options.is_socketio && bytes && text[0] == '2') { /* Engine.IO ping */
        pings++;
        send_frame(connection->stream.fd, 1, "3", 1);
    } else if (connection->state == GREETING) {
        if (bytes && text[0] == '0') /* Engine.IO open: ask for the default namespace */
            send_frame(connection->stream.fd, 1, "40", 2);
        else if (bytes >= 2 && !memcmp(text, "40", 2))
            become_ready(connection);
        else
            fail("greeting: %.*s", (int)bytes, text);
    } else if (options.window_count) { /* Who only holds does not mind what others say. */
        receive_delivery(connection, text, bytes, now);
    }
}

#ifdef WITHOUT_ZLIB
static z_stream *create_inflater(void)
{
    fail("--deflate needs zlib's header (Debian: apt install zlib1g-dev)");
}

static size_t inflate_message(z_stream *inflater, unsigned char *data, size_t bytes, unsigned char *text)
{
    (void)inflater, (void)data, (void)bytes, (void)text;
    return 0;
}
#else
static z_stream *create_inflater(void)
{
    z_stream *inflater = calloc(1, sizeof *inflater);
    if (inflateInit2(inflater, -WINDOW_BITS) != Z_OK)
        fail("inflateInit2");
    return inflater;
}

/* Inflate one message (RFC 7692 section 7.2.2) into TEXT_BYTES_MAX bytes; returns its length. */
static size_t inflate_message(z_stream *inflater, unsigned char *data, size_t bytes, unsigned char *text)
{
    static unsigned char tail[] = {0, 0, 0xff, 0xff};

    inflater->next_out = text;
    inflater->avail_out = TEXT_BYTES_MAX;
    for (int part = 0; part < 2; part++) {
        inflater->next_in = part ? tail : data;
        inflater->avail_in = part ? sizeof tail : (uInt)bytes;
        int result = inflate(inflater, Z_SYNC_FLUSH);
        if ((result != Z_OK && result != Z_BUF_ERROR) || inflater->avail_in)
            fail("a message of %zu bytes cannot be inflated: %d", bytes, result);
    }
    return TEXT_BYTES_MAX - inflater->avail_out;
}
#endif

static void receive_compressed(struct connection *connection, unsigned char *data, size_t bytes, uint64_t now)
{
    static unsigned char text[TEXT_BYTES_MAX];

    if (connection->deflate == PLAIN)
        fail("a compressed message on a connection that agreed on none");
    compressed++;
    if (connection->deflate == WITH_CONTEXT) {
        if (!connection->inflater)
            connection->inflater = create_inflater();
        size_t length = inflate_message(connection->inflater, data, bytes, text);
        receive_text(connection, (char *)text, length, now);
        return;
    }
    struct inflated **place = &seen[connection->expected % IN_FLIGHT_MAX], *known = *place;
    if (!known)
        known = *place = calloc(1, sizeof *known);
    if (!known->bytes || known->number != connection->expected || known->compressed_bytes != bytes ||
        memcmp(known->compressed, data, bytes)) {
        if (bytes > sizeof known->compressed)
            fail("a compressed message of %zu bytes", bytes);
        /* A new inflater each time: what the last message left must not help this one. */
        z_stream *inflater = create_inflater();
        known->bytes = inflate_message(inflater, data, bytes, known->text);
#ifndef WITHOUT_ZLIB
        inflateEnd(inflater);
#endif
        free(inflater);
        known->number = connection->expected;
        known->compressed_bytes = bytes;
        memcpy(known->compressed, data, bytes);
    }
    receive_text(connection, (char *)known->text, known->bytes, now);
}

/* Handle the whole frames in `data`; returns the bytes used. */
static size_t receive_frames(struct connection *connection, unsigned char *data, size_t bytes, uint64_t now)
{
    struct frame frame;
    size_t used = 0, length;

    while ((length = find_frame(data + used, bytes - used, &frame))) {
        switch (frame.first_byte) {
        case 0x81:
            receive_text(connection, (char *)frame.payload, frame.bytes, now);
            break;
        case 0xC1:
            receive_compressed(connection, frame.payload, frame.bytes, now);
            break;
        case 0x89:
            pings++;
            send_frame(connection->stream.fd, 0xA, frame.payload, frame.bytes);
            break;
        case 0x8A:
            break;
        case 0x88:
            fail("connection %d was closed with code %d", (int)(connection - swarm),
                 frame.bytes >= 2 ? frame.payload[0] << 8 | frame.payload[1] : 1005);
        default:
            fail("frame begins with 0x%02x: fragmented or binary", frame.first_byte);
        }
        used += length;
    }
    return used;
}

static size_t receive_upgrade(struct connection *connection, unsigned char *data, size_t bytes)
{
    size_t used = receive_answer(data, bytes);

    if (!used)
        return 0;
    if (strcasestr((char *)data, "permessage-deflate"))
        connection->deflate = strcasestr((char *)data, "server_no_context_takeover") ? EACH_MESSAGE : WITH_CONTEXT;
    if (options.is_socketio)
        connection->state = GREETING;
    else if (options.is_protocol)
        send_greeting(connection);
    else
        become_ready(connection);
    return used;
}

/* Edge-triggered: a recv() that filled its buffer may have left something; returns 1 then. */
static int receive(struct connection *connection)
{
    size_t kept = connection->stream.kept_bytes, bytes = receive_stream(&connection->stream), used = 0;

    if (!bytes)
        return 0;
    uint64_t now = now_us();
    bytes_in += bytes - kept;
    if (connection->state == UPGRADING)
        used = receive_upgrade(connection, input, bytes);
    if (connection->state != UPGRADING)
        used += receive_frames(connection, input + used, bytes - used, now);
    keep_rest(&connection->stream, input + used, bytes - used);
    return bytes - kept == READ_BYTES;
}

static int port_of(const struct connection *connection)
{
    return options.reader_port && connection != swarm ? options.reader_port : options.port;
}

static void send_upgrade(struct connection *connection)
{
    char request[REQUEST_BYTES_MAX];

    check_connected(connection->stream.fd);
    send_all(connection->stream.fd, request,
             encode_request(request, port_of(connection), options.path, options.headers));
    connection->state = UPGRADING;
    watch(loop_fd, EPOLL_CTL_MOD, connection->stream.fd, EPOLLIN | EPOLLET, connection);
}

static void open_connection(void)
{
    struct connection *connection = &swarm[opened_count++];

    connection->stream.fd = begin_connect(port_of(connection));
    watch(loop_fd, EPOLL_CTL_ADD, connection->stream.fd, EPOLLOUT, connection);
}

/* One turn of the loop; returns 0 when nothing happened for `timeout_ms`, -1 when stdin ended. */
static int turn(int timeout_ms)
{
    static struct epoll_event events[EVENTS_MAX];
    int count = epoll_wait(loop_fd, events, EVENTS_MAX, timeout_ms), has_ended = 0;

    for (int i = 0; i < count; i++) {
        struct connection *connection = events[i].data.ptr;
        if (!connection) {
            char rest[256];
            has_ended |= read(STDIN_FILENO, rest, sizeof rest) <= 0;
        } else if (connection->state == CONNECTING) {
            send_upgrade(connection);
        } else {
            while (receive(connection))
                ;
        }
        if (to_publish)
            publish();
    }
    return has_ended ? -1 : count;
}

static void open_all(void)
{
    uint64_t start = now_us();

    while (ready_count < options.connections) {
        while (opened_count < options.connections && opened_count - ready_count < OPENING_MAX)
            open_connection();
        if (turn(PATIENCE_MS) == 0)
            fail("%d of %d connections ready, then silence", ready_count, options.connections);
    }
    printf("{\"ready\":%d,\"connect_seconds\":%.3f}\n", ready_count, (double)(now_us() - start) / 1e6);
    fflush(stdout);
}

/* Turn the loop until `end`; silence is a failure only while something is in flight. */
static void run_until(uint64_t end)
{
    uint64_t heard = now_us();
    for (uint64_t now = heard; now < end; now = now_us()) {
        if (turn((int)((end - now) / 1000) + 1) > 0)
            heard = now;
        else if (published != completed && now - heard > (uint64_t)PATIENCE_MS * 1000)
            fail("silence");
    }
}

static void run_round(int window)
{
    memset(&latencies, 0, sizeof latencies);
    uint32_t first = published;
    is_publishing = 1;
    to_publish = (uint32_t)window;
    publish();
    run_until(now_us() + (uint64_t)options.warm_ms * 1000);
    uint64_t start = now_us(), delivered_before = delivered, compressed_before = compressed, bytes_before = bytes_in;
    struct cpu_times times = read_cpu_times(&options.processes);
    run_until(start + (uint64_t)options.measure_ms * 1000);
    double seconds = (double)(now_us() - start) / 1e6;
    struct cpu_times shares = cpu_shares(&options.processes, times, seconds);
    double deliveries = (double)(delivered - delivered_before), bytes = (double)(bytes_in - bytes_before);
    double inflated = (double)(compressed - compressed_before);
    is_publishing = 0;
    while (completed != published)
        if (turn(PATIENCE_MS) == 0)
            fail("deliveries lost: %u of %u publications complete, then silence", completed - first,
                 published - first);
    printf("{\"in_flight\":%d,\"p50_ms\":%.2f,\"p99_ms\":%.2f,\"deliveries_per_second\":%.0f,"
           "\"bytes_per_delivery\":%.1f,\"compressed_share\":%.2f,\"publications\":%u,\"seconds\":%.3f,",
           window, latency_ms(&latencies, 0.50), latency_ms(&latencies, 0.99), deliveries / seconds,
           deliveries > 0 ? bytes / deliveries : 0.0, deliveries > 0 ? inflated / deliveries : 0.0,
           published - first, seconds);
    print_cpu_shares(shares);
}

static void hold(void)
{
    uint64_t end = now_us() + (uint64_t)options.hold_seconds * 1000000;
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL};

    if (epoll_ctl(loop_fd, EPOLL_CTL_ADD, STDIN_FILENO, &event) < 0)
        fail("--hold needs a pipe as stdin");
    for (uint64_t now = now_us(); now < end; now = now_us())
        if (turn((int)((end - now) / 1000) + 1) < 0)
            break;
    printf("{\"held\":%d,\"pings\":%llu}\n", ready_count, (unsigned long long)pings);
}

static void read_windows(char *text)
{
    for (char *item = strtok(text, ","); item; item = strtok(NULL, ",")) {
        int window = atoi(item);
        if (options.window_count == ROUNDS_MAX || window < 1 || window > IN_FLIGHT_MAX)
            fail("--windows: at most %d numbers of 1 to %d", ROUNDS_MAX, IN_FLIGHT_MAX);
        options.windows[options.window_count++] = window;
    }
}

static void read_options(int argc, char **argv)
{
    static const struct option names[] = {
        {"port", 1, 0, 'p'},       {"path", 1, 0, 'u'},    {"connections", 1, 0, 'n'},
        {"windows", 1, 0, 'w'},    {"warm-ms", 1, 0, 'a'}, {"measure-ms", 1, 0, 'm'},
        {"payload-bytes", 1, 0, 'b'}, {"payload", 1, 0, 'r'}, {"dialect", 1, 0, 'd'},
        {"deflate", 1, 0, 'z'},    {"header", 1, 0, 'h'},  {"hold", 1, 0, 'i'},
        {"server-pid", 1, 0, 's'}, {"channel", 1, 0, 'c'}, {"tokens", 1, 0, 't'},
        {"reader-port", 1, 0, 'P'}, {"reader-pid", 1, 0, 'S'}, {"broker-pid", 1, 0, 'B'}, {0, 0, 0, 0}};
    int name;

    while ((name = getopt_long(argc, argv, "", names, NULL)) != -1) {
        switch (name) {
        case 'p': options.port = atoi(optarg); break;
        case 'c': options.channel = optarg; break;
        case 't': read_tokens(optarg); break;
        case 'u': options.path = optarg; break;
        case 'n': options.connections = atoi(optarg); break;
        case 'a': options.warm_ms = atoi(optarg); break;
        case 'm': options.measure_ms = atoi(optarg); break;
        case 'b': options.payload_bytes = atoi(optarg); break;
        case 'i': options.hold_seconds = atoi(optarg); break;
        case 's': options.processes.server = atoi(optarg); break;
        case 'S': options.processes.reader = atoi(optarg); break;
        case 'B': options.processes.broker = atoi(optarg); break;
        case 'P': options.reader_port = atoi(optarg); break;
        case 'd':
            options.is_socketio = !strcmp(optarg, "socketio");
            options.is_protocol = !strcmp(optarg, "protocol");
            break;
        case 'r': options.has_rows = !strcmp(optarg, "rows"); break;
        case 'z': options.does_deflate = atoi(optarg); break;
        case 'h': add_header(options.headers, sizeof options.headers, optarg); break;
        case 'w': read_windows(optarg); break;
        default: exit(2);
        }
    }
    if (options.port < 1 || options.connections < 1)
        fail("--port and --connections are needed");
    if (options.is_protocol && (!tokens || strlen(options.channel) > 64))
        fail("the protocol needs --tokens, and a --channel of at most 64 bytes");
    if (options.payload_bytes < 64 + 32 * options.has_rows || options.payload_bytes > PAYLOAD_BYTES_MAX)
        fail("--payload-bytes: %d to %d", 64 + 32 * options.has_rows, PAYLOAD_BYTES_MAX);
    if (options.does_deflate) /* what a browser offers */
        add_header(options.headers, sizeof options.headers,
                   "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits");
}

int main(int argc, char **argv)
{
    read_options(argc, argv);
    int round_ms = options.warm_ms + options.measure_ms + PATIENCE_MS;
    limit_lifetime(options.hold_seconds + options.window_count * round_ms / 1000);
    loop_fd = epoll_create1(EPOLL_CLOEXEC);
    swarm = calloc((size_t)options.connections, sizeof *swarm);
    open_all();
    if (options.window_count)
        run_until(now_us() + SETTLE_MS * 1000);
    for (int i = 0; i < options.window_count; i++)
        run_round(options.windows[i]);
    if (options.hold_seconds)
        hold();
    return 0;
}
