/*
 * The limit: how fast can one core deliver when each delivery is one send()?
 *
 * Question  What does the kernel alone cost, with no Python and no framework in the way?
 * Method    A WebSocket server that does nothing it could leave out: it answers the upgrade with a
 *           fixed text, unmasks a publication, frames it once, and calls send() once per connection
 *           and publication. The same swarm.c drives it that drives every other server.
 * Expected  300,000 to 450,000 deliveries/s on a 2020s server core over loopback; little more with
 *           many publications in flight, because the count of send() calls stays the same. A server
 *           that joins the publications of one turn makes fewer calls and can stand far above it.
 *
 * Usage     send_limit PORT LIFETIME_SECONDS       (loopback only; ends by itself)
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

enum { CONNECTIONS_MAX = 20000, BUFFER_BYTES = 1 << 16, EVENTS_MAX = 1024, BACKLOG = 2048 };

/* RFC 6455 section 1.3: the answer to the sample key, which is the key that swarm.c sends. */
static const char SWITCHING[] =
    "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

struct connection {
    int fd;
    int upgraded;
    int place; /* index in `members`, so that leaving is one swap */
    size_t kept_bytes;
    unsigned char *kept; /* only while a frame or a request is incomplete */
};

static struct connection *members[CONNECTIONS_MAX];
static int member_count;
static int loop_fd;
static unsigned char input[2 * BUFFER_BYTES];

static void fail(const char *what)
{
    perror(what);
    exit(1);
}

static void forget(struct connection *connection)
{
    if (connection->upgraded) {
        members[connection->place] = members[--member_count];
        members[connection->place]->place = connection->place;
    }
    close(connection->fd);
    free(connection->kept);
    free(connection);
}

static void publish(const unsigned char *payload, size_t bytes)
{
    static unsigned char frame[BUFFER_BYTES + 4];
    size_t head = bytes < 126 ? 2 : 4;

    frame[0] = 0x81;
    if (bytes < 126) {
        frame[1] = (unsigned char)bytes;
    } else {
        frame[1] = 126;
        frame[2] = (unsigned char)(bytes >> 8);
        frame[3] = (unsigned char)bytes;
    }
    memcpy(frame + head, payload, bytes);
    for (int i = 0; i < member_count; i++)
        if (send(members[i]->fd, frame, head + bytes, MSG_NOSIGNAL) != (ssize_t)(head + bytes))
            fail("send");
}

/* Read whole masked frames; returns the bytes used, or -1 when the peer closed. */
static ssize_t receive_frames(unsigned char *data, size_t bytes)
{
    size_t used = 0;

    while (bytes - used >= 6) {
        unsigned char *frame = data + used;
        size_t head = 2, length = frame[1] & 0x7f;

        if ((frame[0] & 0x0f) == 8 || length == 127)
            return -1;
        if (length == 126) {
            length = (size_t)frame[2] << 8 | frame[3];
            head = 4;
        }
        if (bytes - used < head + 4 + length)
            break;
        unsigned char *mask = frame + head, *payload = mask + 4;
        for (size_t i = 0; i < length; i++)
            payload[i] ^= mask[i & 3];
        if ((frame[0] & 0x0f) == 1)
            publish(payload, length);
        used += head + 4 + length;
    }
    return (ssize_t)used;
}

static void receive(struct connection *connection)
{
    size_t had = connection->kept_bytes;
    ssize_t used = 0;

    memcpy(input, connection->kept, had);
    ssize_t got = recv(connection->fd, input + had, BUFFER_BYTES, MSG_DONTWAIT);
    if (got <= 0) {
        forget(connection);
        return;
    }
    size_t bytes = had + (size_t)got;
    if (connection->upgraded) {
        used = receive_frames(input, bytes);
    } else if (memmem(input, bytes, "\r\n\r\n", 4)) {
        if (member_count == CONNECTIONS_MAX)
            fail("too many connections");
        if (send(connection->fd, SWITCHING, sizeof SWITCHING - 1, MSG_NOSIGNAL) < 0)
            fail("send");
        connection->upgraded = 1;
        connection->place = member_count;
        members[member_count++] = connection;
        used = (ssize_t)bytes; /* A client sends no frame before it has read the answer. */
    }
    if (used < 0 || bytes - (size_t)used > BUFFER_BYTES) {
        forget(connection);
        return;
    }
    connection->kept_bytes = bytes - (size_t)used;
    connection->kept = realloc(connection->kept, connection->kept_bytes + 1);
    memcpy(connection->kept, input + used, connection->kept_bytes);
}

static void accept_one(int listener)
{
    int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC), yes = 1;
    if (fd < 0)
        return;
    /* Sends block, but never for ever: a reader that stops ends the run. */
    struct timeval patience = {.tv_sec = 10};
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
    struct connection *connection = calloc(1, sizeof *connection);
    connection->fd = fd;
    connection->kept = malloc(1);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = connection};
    if (epoll_ctl(loop_fd, EPOLL_CTL_ADD, fd, &event) < 0)
        fail("epoll_ctl");
}

int main(int argc, char **argv)
{
    if (argc != 3) {
        fprintf(stderr, "usage: send_limit PORT LIFETIME_SECONDS\n");
        return 2;
    }
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    alarm((unsigned)atoi(argv[2]));
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), yes = 1;
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_port = htons((uint16_t)atoi(argv[1])),
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    if (bind(listener, (struct sockaddr *)&address, sizeof address) < 0 || listen(listener, BACKLOG) < 0)
        fail("listen");
    loop_fd = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL}, events[EVENTS_MAX];
    if (epoll_ctl(loop_fd, EPOLL_CTL_ADD, listener, &event) < 0)
        fail("epoll_ctl");
    for (;;) {
        int ready = epoll_wait(loop_fd, events, EVENTS_MAX, -1);
        for (int i = 0; i < ready; i++) {
            if (events[i].data.ptr)
                receive(events[i].data.ptr);
            else
                accept_one(listener);
        }
    }
}
