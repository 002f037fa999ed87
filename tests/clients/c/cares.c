/* A client on c-ares, which reads resolv.conf and asks the nameserver by itself: `cares HOST PORT`. It tries one address
 * after the other, in the order in which c-ares gives them; with a third argument the first only. */
#include <ares.h>
#include <stdlib.h>
#include <sys/select.h>
#include <sys/socket.h>

#include "arrival.h"

static double start_ms;
static int result = 1;
static int first_only;

static void found(void *unused, int status, int timeouts, struct ares_addrinfo *all)
{
	struct ares_addrinfo_node *each;
	int fd;

	(void)unused;
	(void)timeouts;
	if (status != ARES_SUCCESS) {
		fprintf(stderr, "%s\n", ares_strerror(status));
		return;
	}
	for (each = all->nodes; each != NULL && result != 0; each = each->ai_next) {
		fd = socket(each->ai_family, SOCK_STREAM, 0);
		if (fd >= 0 && connect(fd, each->ai_addr, each->ai_addrlen) == 0)
			result = converse(fd, start_ms);
		else
			perror("connect");
		close(fd);
		if (first_only)
			break;
	}
	ares_freeaddrinfo(all);
}

int main(int argc, char **argv)
{
	struct ares_addrinfo_hints hints = {.ai_socktype = SOCK_STREAM};
	ares_channel channel;
	struct timeval most, *wait;
	fd_set readable, writable;
	int count;

	if (argc < 3)
		return fprintf(stderr, "cares HOST PORT\n"), 2;
	first_only = argc > 3;
	start_ms = now_ms();
	if (ares_library_init(ARES_LIB_INIT_ALL) != 0 || ares_init(&channel) != ARES_SUCCESS)
		return fprintf(stderr, "c-ares does not start\n"), 1;
	ares_getaddrinfo(channel, argv[1], argv[2], &hints, found, NULL);
	for (;;) {
		FD_ZERO(&readable);
		FD_ZERO(&writable);
		count = ares_fds(channel, &readable, &writable);
		if (count == 0)
			break;
		wait = ares_timeout(channel, NULL, &most);
		select(count, &readable, &writable, NULL, wait);
		ares_process(channel, &readable, &writable);
	}
	ares_destroy(channel);
	return result;
}
