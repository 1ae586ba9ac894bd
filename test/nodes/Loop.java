import software.amazon.awssdk.auth.credentials.DefaultCredentialsProvider;
import software.amazon.awssdk.regions.Region;
import software.amazon.awssdk.services.sts.StsClient;

/**
 * Asks who it is, again and again, until it is told to end. Each time it looks for credentials anew. It writes a line each time: how long it took,
 * and the identity or the error.
 */
public class Loop {
    private static volatile boolean ended;

    public static void main(String[] args) throws InterruptedException {
        Thread loop = Thread.currentThread();
        Runtime.getRuntime().addShutdownHook(new Thread(() -> {
            ended = true;
            try {
                loop.join();
            } catch (InterruptedException e) {
                Thread.currentThread().interrupt();
            }
        }));
        while (!ended) {
            long begun = System.nanoTime();
            String said;
            try (DefaultCredentialsProvider own = DefaultCredentialsProvider.builder().build();
                    StsClient sts = StsClient.builder().region(Region.US_EAST_1).credentialsProvider(own).build()) {
                said = "is " + sts.getCallerIdentity().arn();
            } catch (RuntimeException e) {
                said = "error " + e.toString().replace('\n', ' ');
            }
            System.out.println((System.nanoTime() - begun) / 1_000_000 + " " + said);
            Thread.sleep(100);
        }
        System.out.println("0 end");
    }
}
