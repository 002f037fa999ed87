/** What the Java clients share: where they go, and the line in which they say where they arrived and in how long. */
final class Arrival {
    final String host;
    final int port;
    /** What a URL calls the two. */
    final String authority;
    private final long start;

    Arrival(String[] arguments) {
        host = arguments[0];
        port = Integer.parseInt(arguments[1]);
        authority = (host.contains(":") ? "[" + host + "]" : host) + ":" + port;
        start = System.nanoTime();
    }

    /** The server says at which of its addresses it was reached. */
    void end(String said) {
        System.out.println(said.strip() + " " + (System.nanoTime() - start) / 1e6);
        System.exit(0);
    }
}
