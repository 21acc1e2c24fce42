package io.socket.client;

/** Stands in the client's package because the engine under a manager is visible only there. */
public final class Upgrades {
    private Upgrades() {}

    /** Runs {@code then} once the connection of {@code socket} has become a websocket. */
    public static void onUpgrade(Socket socket, Runnable then) {
        Manager manager = socket.io();
        manager.on(Manager.EVENT_OPEN, opened ->
                manager.engine.on(io.socket.engineio.client.Socket.EVENT_UPGRADE, given -> then.run()));
    }
}
