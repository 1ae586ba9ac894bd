import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.util.stream.Collectors;
import software.amazon.awssdk.regions.Region;
import software.amazon.awssdk.services.ec2.Ec2Client;
import software.amazon.awssdk.services.ec2.model.Ec2Exception;
import software.amazon.awssdk.services.s3.S3Client;
import software.amazon.awssdk.services.sts.StsClient;

/** The client program of the AWS SDK for Java v2, given only a region; see ../README.md. */
public class Client {
    public static void main(String[] args) throws IOException {
        Region region = Region.US_EAST_1;
        if (args.length > 0 && args[0].equals("identities")) {
            identities(region);
            return;
        }
        String buckets;
        try (S3Client s3 = S3Client.builder().region(region).build()) {
            buckets = s3.listBuckets().buckets().stream().map(b -> quote(b.name())).collect(Collectors.joining(","));
        }
        String arn;
        try (StsClient sts = StsClient.builder().region(region).build()) {
            arn = sts.getCallerIdentity().arn();
        }
        String denied = "";
        try (Ec2Client ec2 = Ec2Client.builder().region(region).build()) {
            ec2.describeInstances();
        } catch (Ec2Exception e) {
            denied = e.getMessage();
        }
        System.out.println("{\"arn\":" + quote(arn) + ",\"buckets\":[" + buckets + "],\"denied\":" + quote(denied) + "}");
    }

    /** Prints who it is for each line of input. */
    private static void identities(Region region) throws IOException {
        BufferedReader in = new BufferedReader(new InputStreamReader(System.in));
        try (StsClient sts = StsClient.builder().region(region).build()) {
            while (in.readLine() != null) {
                System.out.println(sts.getCallerIdentity().arn());
            }
        }
    }

    private static String quote(String s) {
        return "\"" + s.replace("\\", "\\\\").replace("\"", "\\\"").replace("\n", "\\n") + "\"";
    }
}
