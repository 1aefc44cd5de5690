import java.util.HexFormat;
import java.util.Scanner;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.connect.mirror.OffsetSync;

/** Reads lines of "key value" in hexadecimal, and prints what MirrorMaker 2's own reader makes of each. */
public class ReadSyncs {
    public static void main(String[] arguments) {
        HexFormat hex = HexFormat.of();
        Scanner lines = new Scanner(System.in);
        while (lines.hasNext()) {
            byte[] key = hex.parseHex(lines.next());
            byte[] value = hex.parseHex(lines.next());
            OffsetSync sync = OffsetSync.deserializeRecord(new ConsumerRecord<>("syncs", 0, 0L, key, value));
            System.out.println(sync.topicPartition() + " " + sync.upstreamOffset() + " " + sync.downstreamOffset());
        }
    }
}
