import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;

/** java.net.http.HttpClient. */
class ByHttpClient {
    public static void main(String[] arguments) throws Exception {
        Arrival arrival = new Arrival(arguments);
        HttpRequest request = HttpRequest.newBuilder(URI.create("http://" + arrival.authority + "/")).build();
        HttpClient client = HttpClient.newBuilder().version(HttpClient.Version.HTTP_1_1).build();
        arrival.end(client.send(request, HttpResponse.BodyHandlers.ofString()).body());
    }
}
