/* libpq: `libpq HOST PORT`. */
#include <libpq-fe.h>

#include "arrival.h"

int main(int argc, char **argv)
{
	const char *names[] = {"host", "port", "user", "dbname", NULL};
	const char *values[] = {argv[1], argv[2], "app", "postgres", NULL};
	double start_ms = now_ms();
	PGconn *connection;
	PGresult *rows;

	if (argc != 3)
		return fprintf(stderr, "libpq HOST PORT\n"), 2;
	connection = PQconnectdbParams(names, values, 0);
	if (PQstatus(connection) != CONNECTION_OK)
		return fprintf(stderr, "%s", PQerrorMessage(connection)), 1;
	rows = PQexec(connection, "select host(inet_server_addr())");
	if (PQresultStatus(rows) != PGRES_TUPLES_OK)
		return fprintf(stderr, "%s", PQerrorMessage(connection)), 1;
	printf("%s %f\n", PQgetvalue(rows, 0, 0), now_ms() - start_ms);
	PQclear(rows);
	PQfinish(connection);
	return 0;
}
