import java.net.Socket;
import java.nio.charset.StandardCharsets;

/** java.net.Socket. */
class BySocket {
    public static void main(String[] arguments) throws Exception {
        Arrival arrival = new Arrival(arguments);
        try (Socket socket = new Socket(arrival.host, arrival.port)) {
            socket.getOutputStream().write("GET / HTTP/1.0\r\n\r\n".getBytes(StandardCharsets.US_ASCII));
            String answer = new String(socket.getInputStream().readAllBytes(), StandardCharsets.US_ASCII);
            arrival.end(answer.split("\r\n\r\n")[1]);
        }
    }
}
