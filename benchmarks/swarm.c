/*
 * The load: many WebSocket clients in one thread, the publisher among them.
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
 * Expected  It can count about 10 million deliveries/s when they come joined, and 600,000 recv()
 *           calls/s when they come one by one. `load_cpu` says how busy its core was: near 1.0
 *           means that the load, not the server, was the limit. `server_cpu` is the same for the
 *           server: much below 1.0 means that it waited, for the load or for the machine.
 *
 * Usage     swarm --port P --path /x --connections N [--windows 1,8,64] [--warm-ms 300]
 *                 [--measure-ms 1000] [--payload-bytes 116] [--dialect text|socketio]
 *                 [--header 'Name: value']... [--hold SECONDS] [--server-pid PID]
 *           One JSON line per fact on stdout: {"ready":...}, then one per round. With --hold, the
 *           connections stay open, pings answered, until stdin ends or the time is over.
 *           Exit status 1, with one line on stderr, when anything is not as expected.
 */
#define _GNU_SOURCE
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
    READ_BYTES = 1 << 18,    /* one recv(): 2,000 joined deliveries fit */
    FRAME_BYTES_MAX = 1 << 16, /* no server here sends more in one message */
    EVENTS_MAX = 1024,
    OPENING_MAX = 64,        /* connections in connect or handshake at a time */
    IN_FLIGHT_MAX = 4096,    /* ring of publications; a power of two */
    ROUNDS_MAX = 64,
    LATENCY_STEP_US = 10,    /* width of one histogram bucket */
    LATENCY_BUCKETS = 2000000, /* 20 s; later ones fall into the last */
    PATIENCE_MS = 20000,     /* nothing arrives for so long: the run has failed */
    SETTLE_MS = 200,         /* from the last handshake to the first publication */
    LIFETIME_SPARE_SECONDS = 120,
};

enum state { CONNECTING, UPGRADING, GREETING, READY };

struct connection {
    int fd;
    enum state state;
    uint32_t expected; /* number of the publication that must come next */
    uint32_t kept_bytes;
    unsigned char *kept; /* only while a frame is incomplete */
};

static struct {
    int port, connections, warm_ms, measure_ms, payload_bytes, hold_seconds, is_socketio, server_pid;
    int window_count, windows[ROUNDS_MAX];
    const char *path;
    char headers[4096];
} options = {.path = "/", .warm_ms = 300, .measure_ms = 1000, .payload_bytes = 116};

static struct connection *swarm;
static int loop_fd, ready_count, opened_count;
static unsigned char input[READ_BYTES + FRAME_BYTES_MAX + 16];

/* The publications of the running round. */
static uint32_t published, completed, to_publish;
static uint64_t sent_at[IN_FLIGHT_MAX];
static int missing[IN_FLIGHT_MAX]; /* deliveries that have not arrived */
static int is_publishing;
static uint64_t delivered, pings, bytes_in;
static uint32_t latencies[LATENCY_BUCKETS];

static __attribute__((noreturn, format(printf, 1, 2))) void fail(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    fprintf(stderr, "swarm: ");
    vfprintf(stderr, format, arguments);
    fprintf(stderr, "\n");
    exit(1);
}

static uint64_t now_us(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000;
}

static double cpu_seconds(void)
{
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
           (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
}

/* CPU time of the server's process, all threads: utime and stime, fields 14 and 15 (proc(5)). */
static double server_cpu_seconds(void)
{
    char path[64];
    int user = 0, system = 0;

    snprintf(path, sizeof path, "/proc/%d/stat", options.server_pid);
    FILE *file = options.server_pid ? fopen(path, "r") : NULL;
    if (!file)
        return 0;
    if (fscanf(file, "%*d %*s %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %d %d", &user, &system) != 2)
        fail("%s cannot be read", path);
    fclose(file);
    return (double)(user + system) / (double)sysconf(_SC_CLK_TCK);
}

static void watch(struct connection *connection, int operation, uint32_t events)
{
    struct epoll_event event = {.events = events, .data.ptr = connection};
    if (epoll_ctl(loop_fd, operation, connection->fd, &event) < 0)
        fail("epoll_ctl: %s", strerror(errno));
}

static void send_all(struct connection *connection, const void *data, size_t bytes)
{
    const char *rest = data;
    while (bytes) {
        ssize_t sent = send(connection->fd, rest, bytes, MSG_NOSIGNAL);
        if (sent < 0 && errno == EAGAIN) {
            struct pollfd writable = {.fd = connection->fd, .events = POLLOUT};
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

/* Append one masked frame (RFC 6455 section 5.2) to `out`; returns its length. */
static size_t encode_frame(unsigned char *out, int opcode, const void *payload, size_t bytes)
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

static void send_frame(struct connection *connection, int opcode, const void *payload, size_t bytes)
{
    unsigned char frame[256];
    if (bytes > sizeof frame - 8)
        fail("frame of %zu bytes to send", bytes);
    send_all(connection, frame, encode_frame(frame, opcode, payload, bytes));
}

/* Send `to_publish` publications in one write. */
static void publish(void)
{
    static unsigned char frames[IN_FLIGHT_MAX * 1024];
    char text[1024], filler[1024];
    const char *before = options.is_socketio ? "42[\"bench\"," : "", *after = options.is_socketio ? "]" : "";
    /* {"by":"ann","text":"<filler>","seq":"00000042"} */
    int filler_bytes = options.payload_bytes - (int)sizeof "{\"by\":\"ann\",\"text\":\"\",\"seq\":\"00000000\"}" + 1;
    size_t bytes = 0;

    memset(filler, 'x', (size_t)filler_bytes);
    filler[filler_bytes] = 0;
    while (to_publish) {
        int length = snprintf(text, sizeof text, "%s{\"by\":\"ann\",\"text\":\"%s\",\"seq\":\"%08u\"}%s",
                              before, filler, published, after);
        bytes += encode_frame(frames + bytes, 1, text, (size_t)length);
        missing[published % IN_FLIGHT_MAX] = options.connections;
        sent_at[published % IN_FLIGHT_MAX] = now_us();
        published++;
        to_publish--;
    }
    send_all(&swarm[0], frames, bytes);
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
    uint64_t latency = (now - sent_at[number % IN_FLIGHT_MAX]) / LATENCY_STEP_US;
    latencies[latency < LATENCY_BUCKETS ? latency : LATENCY_BUCKETS - 1]++;
    if (--missing[number % IN_FLIGHT_MAX] == 0) {
        completed++;
        to_publish += (uint32_t)is_publishing;
    }
}

static void become_ready(struct connection *connection)
{
    connection->state = READY;
    ready_count++;
}

static void receive_text(struct connection *connection, const char *text, size_t bytes, uint64_t now)
{
    if (options.is_socketio && bytes && text[0] == '2') { /* Engine.IO ping */
        pings++;
        send_frame(connection, 1, "3", 1);
    } else if (connection->state == GREETING) {
        if (bytes && text[0] == '0') /* Engine.IO open: ask for the default namespace */
            send_frame(connection, 1, "40", 2);
        else if (bytes >= 2 && !memcmp(text, "40", 2))
            become_ready(connection);
        else
            fail("greeting: %.*s", (int)bytes, text);
    } else if (options.window_count) { /* Who only holds does not mind what others say. */
        receive_delivery(connection, text, bytes, now);
    }
}

/* Handle the whole frames in `data`; returns the bytes used. */
static size_t receive_frames(struct connection *connection, unsigned char *data, size_t bytes, uint64_t now)
{
    size_t used = 0;

    while (bytes - used >= 2) {
        unsigned char *frame = data + used;
        size_t head = 2, length = frame[1];

        if (length == 126) {
            if (bytes - used < 4)
                break;
            length = (size_t)frame[2] << 8 | frame[3];
            head = 4;
        } else if (length > 126) {
            fail("frame with a mask or with more than %d bytes", FRAME_BYTES_MAX);
        }
        if (bytes - used < head + length)
            break;
        switch (frame[0]) {
        case 0x81:
            receive_text(connection, (char *)frame + head, length, now);
            break;
        case 0x89:
            pings++;
            send_frame(connection, 0xA, frame + head, length);
            break;
        case 0x8A:
            break;
        case 0x88:
            fail("connection %d was closed with code %d", (int)(connection - swarm),
                 length >= 2 ? frame[head] << 8 | frame[head + 1] : 1005);
        default:
            fail("frame begins with 0x%02x: fragmented, binary or compressed", frame[0]);
        }
        used += head + length;
    }
    return used;
}

static size_t receive_upgrade(struct connection *connection, char *data, size_t bytes)
{
    char *end = memmem(data, bytes, "\r\n\r\n", 4);

    if (!end)
        return 0;
    *end = 0;
    if (strncmp(data, "HTTP/1.1 101", 12) || !strstr(data, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="))
        fail("upgrade refused: %s", data);
    if (options.is_socketio)
        connection->state = GREETING;
    else
        become_ready(connection);
    return (size_t)(end + 4 - data);
}

/* Edge-triggered: a recv() that filled its buffer may have left something; returns 1 then. */
static int receive(struct connection *connection)
{
    size_t bytes = connection->kept_bytes, used = 0;

    if (bytes)
        memcpy(input, connection->kept, bytes);
    ssize_t got = recv(connection->fd, input + bytes, READ_BYTES, 0);
    if (got < 0 && errno == EAGAIN)
        return 0;
    if (got <= 0)
        fail("connection %d: %s", (int)(connection - swarm), got ? strerror(errno) : "end of stream");
    uint64_t now = now_us();
    bytes += (size_t)got;
    bytes_in += (uint64_t)got;
    if (connection->state == UPGRADING)
        used = receive_upgrade(connection, (char *)input, bytes);
    if (connection->state != UPGRADING)
        used += receive_frames(connection, input + used, bytes - used, now);
    if (bytes == used && !connection->kept_bytes)
        return got == READ_BYTES;
    connection->kept_bytes = (uint32_t)(bytes - used);
    if (connection->kept_bytes > FRAME_BYTES_MAX)
        fail("%u bytes without a whole frame", connection->kept_bytes);
    free(connection->kept);
    connection->kept = NULL;
    if (connection->kept_bytes) {
        connection->kept = malloc(connection->kept_bytes);
        memcpy(connection->kept, input + used, connection->kept_bytes);
    }
    return got == READ_BYTES;
}

static void send_upgrade(struct connection *connection)
{
    char request[8192];
    int error = 0;
    socklen_t size = sizeof error;

    getsockopt(connection->fd, SOL_SOCKET, SO_ERROR, &error, &size);
    if (error)
        fail("connect: %s", strerror(error));
    int bytes = snprintf(request, sizeof request,
                         "GET %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nUpgrade: websocket\r\n"
                         "Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
                         "Sec-WebSocket-Version: 13\r\n%s\r\n",
                         options.path, options.port, options.headers);
    send_all(connection, request, (size_t)bytes);
    connection->state = UPGRADING;
    watch(connection, EPOLL_CTL_MOD, EPOLLIN | EPOLLET);
}

static void open_connection(void)
{
    struct connection *connection = &swarm[opened_count++];
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_port = htons((uint16_t)options.port),
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int yes = 1;

    connection->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (connection->fd < 0)
        fail("socket: %s", strerror(errno));
    setsockopt(connection->fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
    if (connect(connection->fd, (struct sockaddr *)&address, sizeof address) < 0 && errno != EINPROGRESS)
        fail("connect: %s", strerror(errno));
    watch(connection, EPOLL_CTL_ADD, EPOLLOUT);
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

static double latency_ms(double share)
{
    uint64_t total = 0, seen = 0;
    for (int i = 0; i < LATENCY_BUCKETS; i++)
        total += latencies[i];
    for (int i = 0; i < LATENCY_BUCKETS; i++)
        if ((double)(seen += latencies[i]) >= share * (double)total)
            return (double)(i + 1) * LATENCY_STEP_US / 1000;
    return 0;
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
    memset(latencies, 0, sizeof latencies);
    uint32_t first = published;
    is_publishing = 1;
    to_publish = (uint32_t)window;
    publish();
    run_until(now_us() + (uint64_t)options.warm_ms * 1000);
    uint64_t start = now_us(), delivered_before = delivered, bytes_before = bytes_in;
    double cpu_before = cpu_seconds(), server_before = server_cpu_seconds();
    run_until(start + (uint64_t)options.measure_ms * 1000);
    double seconds = (double)(now_us() - start) / 1e6, cpu = cpu_seconds() - cpu_before;
    double server_cpu = server_cpu_seconds() - server_before;
    uint64_t deliveries = delivered - delivered_before, bytes = bytes_in - bytes_before;
    is_publishing = 0;
    while (completed != published)
        if (turn(PATIENCE_MS) == 0)
            fail("deliveries lost: %u of %u publications complete, then silence", completed - first,
                 published - first);
    printf("{\"in_flight\":%d,\"p50_ms\":%.2f,\"p99_ms\":%.2f,\"deliveries_per_second\":%.0f,"
           "\"bytes_per_delivery\":%.1f,\"publications\":%u,\"seconds\":%.3f,\"load_cpu\":%.2f,"
           "\"server_cpu\":%.2f}\n",
           window, latency_ms(0.50), latency_ms(0.99), (double)deliveries / seconds,
           deliveries ? (double)bytes / (double)deliveries : 0.0, published - first, seconds, cpu / seconds,
           server_cpu / seconds);
    fflush(stdout);
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

static void read_options(int argc, char **argv)
{
    static const struct option names[] = {
        {"port", 1, 0, 'p'},       {"path", 1, 0, 'u'},    {"connections", 1, 0, 'n'},
        {"windows", 1, 0, 'w'},    {"warm-ms", 1, 0, 'a'}, {"measure-ms", 1, 0, 'm'},
        {"payload-bytes", 1, 0, 'b'}, {"dialect", 1, 0, 'd'}, {"header", 1, 0, 'h'},
        {"hold", 1, 0, 'i'},       {"server-pid", 1, 0, 's'}, {0, 0, 0, 0}};
    int name;

    while ((name = getopt_long(argc, argv, "", names, NULL)) != -1) {
        switch (name) {
        case 'p': options.port = atoi(optarg); break;
        case 'u': options.path = optarg; break;
        case 'n': options.connections = atoi(optarg); break;
        case 'a': options.warm_ms = atoi(optarg); break;
        case 'm': options.measure_ms = atoi(optarg); break;
        case 'b': options.payload_bytes = atoi(optarg); break;
        case 'i': options.hold_seconds = atoi(optarg); break;
        case 's': options.server_pid = atoi(optarg); break;
        case 'd': options.is_socketio = !strcmp(optarg, "socketio"); break;
        case 'h':
            if (strlen(options.headers) + strlen(optarg) + 3 > sizeof options.headers)
                fail("headers too long");
            strcat(strcat(options.headers, optarg), "\r\n");
            break;
        case 'w':
            for (char *item = strtok(optarg, ","); item; item = strtok(NULL, ",")) {
                int window = atoi(item);
                if (options.window_count == ROUNDS_MAX || window < 1 || window > IN_FLIGHT_MAX)
                    fail("--windows: at most %d numbers of 1 to %d", ROUNDS_MAX, IN_FLIGHT_MAX);
                options.windows[options.window_count++] = window;
            }
            break;
        default: exit(2);
        }
    }
    if (options.port < 1 || options.connections < 1)
        fail("--port and --connections are needed");
    if (options.payload_bytes < 64 || options.payload_bytes > 900)
        fail("--payload-bytes: 64 to 900");
}

int main(int argc, char **argv)
{
    read_options(argc, argv);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    int round_ms = options.warm_ms + options.measure_ms + PATIENCE_MS;
    alarm((unsigned)(options.hold_seconds + options.window_count * round_ms / 1000 + LIFETIME_SPARE_SECONDS));
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
