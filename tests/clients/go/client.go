// Go's net: `client HOST PORT`, and `sequential` for one address after the other instead of happy eyeballs. Says where it
// arrived and in how long. GODEBUG=netdns chooses Go's own resolver or the C library's.
package main

import (
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"time"
)

func main() {
	if err := run(os.Args[1], os.Args[2], len(os.Args) > 3); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(host, port string, sequential bool) error {
	start := time.Now()
	dialer := net.Dialer{}
	if sequential {
		dialer.FallbackDelay = -1
	}
	connection, err := dialer.Dial("tcp", net.JoinHostPort(host, port))
	if err != nil {
		return err
	}
	defer connection.Close()
	if _, err := io.WriteString(connection, "GET / HTTP/1.0\r\n\r\n"); err != nil {
		return err
	}
	answer, err := io.ReadAll(connection)
	if err != nil {
		return err
	}
	_, said, _ := strings.Cut(string(answer), "\r\n\r\n")
	fmt.Println(strings.TrimSpace(said), float64(time.Since(start).Microseconds())/1e3)
	return nil
}
