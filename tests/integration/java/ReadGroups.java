import java.time.Duration;
import java.util.Map;
import java.util.TreeMap;
import java.util.TreeSet;
import org.apache.kafka.clients.consumer.OffsetAndMetadata;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.connect.mirror.MirrorClient;
import org.apache.kafka.connect.mirror.RemoteClusterUtils;

/** Prints what MirrorMaker 2's own client makes of the target. Arguments: bootstrap servers, source alias, group. */
public class ReadGroups {
    public static void main(String[] arguments) throws Exception {
        Map<String, Object> target = Map.of("bootstrap.servers", arguments[0]);
        String source = arguments[1];
        String group = arguments[2];
        Duration timeout = Duration.ofSeconds(30);
        Map<TopicPartition, OffsetAndMetadata> offsets =
            RemoteClusterUtils.translateOffsets(target, source, group, timeout);
        for (var entry : new TreeMap<>(Map.copyOf(named(offsets))).entrySet()) {
            System.out.println("offset " + entry.getKey() + " " + entry.getValue());
        }
        System.out.println("upstream " + RemoteClusterUtils.upstreamClusters(target).contains(source));
        System.out.println("hops " + RemoteClusterUtils.replicationHops(target, source));
        System.out.println("checkpoints " + RemoteClusterUtils.checkpointTopics(target).contains(source + ".checkpoints.internal"));
        System.out.println("heartbeats " + RemoteClusterUtils.heartbeatTopics(target).contains(source + ".heartbeats"));
        try (MirrorClient client = new MirrorClient(target)) {
            System.out.println("remote " + String.join(" ", new TreeSet<>(client.remoteTopics(source))));
        }
    }

    private static Map<String, String> named(Map<TopicPartition, OffsetAndMetadata> offsets) {
        Map<String, String> named = new TreeMap<>();
        offsets.forEach((tp, it) -> named.put(tp.toString(), it.offset() + " " + it.metadata()));
        return named;
    }
}
