/* getaddrinfo and connect, one address after the other, as the manual page has it: `plain HOST PORT`. */
#include <netdb.h>
#include <sys/socket.h>

#include "arrival.h"

int main(int argc, char **argv)
{
	struct addrinfo hints = {.ai_socktype = SOCK_STREAM};
	struct addrinfo *found, *each;
	double start_ms;
	int fd, status;

	if (argc != 3)
		return fprintf(stderr, "plain HOST PORT\n"), 2;
	start_ms = now_ms();
	status = getaddrinfo(argv[1], argv[2], &hints, &found);
	if (status != 0)
		return fprintf(stderr, "%s\n", gai_strerror(status)), 1;
	for (each = found; each != NULL; each = each->ai_next) {
		fd = socket(each->ai_family, each->ai_socktype, each->ai_protocol);
		if (fd >= 0 && connect(fd, each->ai_addr, each->ai_addrlen) == 0)
			return converse(fd, start_ms);
		perror("connect");
		close(fd);
	}
	return 1;
}
