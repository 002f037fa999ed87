/* What the clients in C share: one conversation over a connected socket, and the line in which they say where they arrived
 * and in how long. */
#ifndef ARRIVAL_H
#define ARRIVAL_H

#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static inline double now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1e3 + now.tv_nsec / 1e6;
}

/* Asks the web server at which of its addresses it was reached. */
static inline int converse(int fd, double start_ms)
{
	static const char request[] = "GET / HTTP/1.0\r\n\r\n";
	char answer[4096];
	size_t length = 0;
	ssize_t more;
	char *said;

	if (write(fd, request, sizeof(request) - 1) < 0)
		return perror("write"), 1;
	while (length < sizeof(answer) - 1 &&
	       (more = read(fd, answer + length, sizeof(answer) - 1 - length)) > 0)
		length += more;
	answer[length] = '\0';
	said = strstr(answer, "\r\n\r\n");
	if (said == NULL)
		return fprintf(stderr, "no answer\n"), 1;
	said += 4;
	said[strcspn(said, "\r\n")] = '\0';
	printf("%s %f\n", said, now_ms() - start_ms);
	return 0;
}

#endif
