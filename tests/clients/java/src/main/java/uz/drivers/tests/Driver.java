package uz.drivers.tests;

import io.socket.client.Ack;
import io.socket.client.IO;
import io.socket.client.Socket;
import io.socket.client.Upgrades;
import java.io.BufferedReader;
import java.io.FileDescriptor;
import java.io.FileOutputStream;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import okhttp3.OkHttpClient;
import org.json.JSONArray;
import org.json.JSONException;
import org.json.JSONObject;

/** Drives the client that Android phones use; see ../README.md for the protocol. */
public final class Driver {
    /** This client has no way to listen to every name. */
    private static final List<String> NAMES = List.of("signin_response", "message_events", "typing_event");

    private static final PrintStream OUT =
            new PrintStream(new FileOutputStream(FileDescriptor.out), true, StandardCharsets.UTF_8);

    private final Map<Integer, Socket> sockets = new HashMap<>();

    public static void main(String[] args) throws Exception {
        Driver driver = new Driver();
        driver.shareOneHttpClient();
        report(0, "ready", Map.of());
        BufferedReader in = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        for (String line = in.readLine(); line != null; line = in.readLine()) {
            driver.run(new JSONObject(line));
        }
        System.exit(0);
    }

    /** The default allows five requests to one host at a time, and each polling connection holds one. */
    private void shareOneHttpClient() {
        okhttp3.Dispatcher dispatcher = new okhttp3.Dispatcher();
        dispatcher.setMaxRequests(1000);
        dispatcher.setMaxRequestsPerHost(1000);
        OkHttpClient http = new OkHttpClient.Builder()
                .dispatcher(dispatcher)
                .readTimeout(1, java.util.concurrent.TimeUnit.MINUTES)
                .build();
        IO.setDefaultOkHttpCallFactory(http);
        IO.setDefaultOkHttpWebSocketFactory(http);
    }

    private void run(JSONObject command) throws Exception {
        int c = command.getInt("c");
        switch (command.getString("do")) {
            case "connect" -> connect(c, command.getString("url"), texts(command.getJSONArray("transports")));
            case "emit" -> emit(c, command);
            case "disconnect" -> sockets.get(c).disconnect();
            default -> throw new IllegalArgumentException(command.getString("do"));
        }
    }

    private void connect(int c, String url, String[] transports) throws Exception {
        IO.Options options = new IO.Options();
        options.forceNew = true;
        options.reconnection = false;
        options.transports = transports;
        Socket socket = IO.socket(url, options);
        sockets.put(c, socket);
        socket.on(Socket.EVENT_CONNECT, given -> report(c, "connected", Map.of()));
        if (transports.length > 1) {
            // The engine may have upgraded by the time the socket is connected.
            Upgrades.onUpgrade(socket, () -> report(c, "upgraded", Map.of()));
        }
        socket.on(Socket.EVENT_DISCONNECT, given -> report(c, "disconnected", Map.of("reason", given[0].toString())));
        for (String name : List.of("connect_error", "error")) {
            socket.on(name, given -> report(c, "error", Map.of("message", String.valueOf(given[0]))));
        }
        for (String name : NAMES) {
            socket.on(name, given -> report(c, "event", Map.of("name", name, "args", array(given))));
        }
        socket.connect();
    }

    private void emit(int c, JSONObject command) throws JSONException {
        JSONArray array = command.getJSONArray("args");
        Object[] args = new Object[array.length()];
        for (int i = 0; i < args.length; i++) {
            args[i] = array.get(i);
        }
        Socket socket = sockets.get(c);
        String event = command.getString("event");
        if (command.has("ack")) {
            int ack = command.getInt("ack");
            socket.emit(event, args, (Ack) given -> report(c, "ack", Map.of("ack", ack, "args", array(given))));
        } else {
            socket.emit(event, args);
        }
    }

    private static String[] texts(JSONArray array) throws JSONException {
        String[] texts = new String[array.length()];
        for (int i = 0; i < texts.length; i++) {
            texts[i] = array.getString(i);
        }
        return texts;
    }

    private static JSONArray array(Object[] given) {
        JSONArray array = new JSONArray();
        for (Object one : given) {
            array.put(one);
        }
        return array;
    }

    private static synchronized void report(int c, String on, Map<String, Object> rest) {
        try {
            JSONObject line = new JSONObject().put("c", c).put("on", on);
            for (Map.Entry<String, Object> entry : rest.entrySet()) {
                line.put(entry.getKey(), entry.getValue());
            }
            OUT.println(line);
        } catch (JSONException error) {
            throw new IllegalStateException(error);
        }
    }
}
