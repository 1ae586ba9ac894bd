import java.util.stream.Collectors;
import software.amazon.awssdk.regions.Region;
import software.amazon.awssdk.services.ec2.Ec2Client;
import software.amazon.awssdk.services.ec2.model.Ec2Exception;
import software.amazon.awssdk.services.s3.S3Client;
import software.amazon.awssdk.services.sts.StsClient;

/** The client program of the AWS SDK for Java v2, given only a region; see ../README.md. */
public class Client {
    public static void main(String[] args) {
        Region region = Region.US_EAST_1;
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

    private static String quote(String s) {
        return "\"" + s.replace("\\", "\\\\").replace("\"", "\\\"").replace("\n", "\\n") + "\"";
    }
}
