import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.ResultSet;

/** PostgreSQL's JDBC driver, which is told a URL. */
class ByJdbc {
    public static void main(String[] arguments) throws Exception {
        Arrival arrival = new Arrival(arguments);
        String url = "jdbc:postgresql://" + arrival.authority + "/postgres?user=app";
        try (Connection connection = DriverManager.getConnection(url);
                ResultSet rows = connection.createStatement().executeQuery("select host(inet_server_addr())")) {
            rows.next();
            arrival.end(rows.getString(1));
        }
    }
}
