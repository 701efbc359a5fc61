/*
 * Asks the C library for the addresses of a name, and prints them. ask.gz is this with musl 1.2.3 (MIT licence), for amd64, from
 * Debian's musl-tools:  musl-gcc -Os -s -static -o ask ask.c && gzip -9n ask
 */
#include <arpa/inet.h>
#include <netdb.h>
#include <sys/socket.h>
#include <unistd.h>
#include <string.h>

static void line(int fd, const char *s) { write(fd, s, strlen(s)); write(fd, "\n", 1); }

int main(int argc, char **argv)
{
	struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *a;
	char text[INET6_ADDRSTRLEN];
	int err = getaddrinfo(argv[argc - 1], 0, &hints, &a);
	if (err) {
		line(2, gai_strerror(err));
		return 1;
	}
	for (; a; a = a->ai_next) {
		const void *from = a->ai_family == AF_INET ? (void *)&((struct sockaddr_in *)a->ai_addr)->sin_addr
							   : (void *)&((struct sockaddr_in6 *)a->ai_addr)->sin6_addr;
		line(1, inet_ntop(a->ai_family, from, text, sizeof text));
	}
	return 0;
}
