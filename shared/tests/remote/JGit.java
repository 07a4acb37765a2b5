// Serves a bare repository over git's smart HTTP protocol with JGit, which shares no code with
// git. Prints the port of 127.0.0.1 that it listens on; it ends with its standard input.

import java.io.File;
import org.eclipse.jetty.server.Server;
import org.eclipse.jetty.server.ServerConnector;
import org.eclipse.jetty.servlet.ServletContextHandler;
import org.eclipse.jetty.servlet.ServletHolder;
import org.eclipse.jgit.http.server.GitServlet;
import org.eclipse.jgit.lib.Repository;
import org.eclipse.jgit.storage.file.FileRepositoryBuilder;
import org.eclipse.jgit.transport.ReceivePack;

class JGit {
    public static void main(String[] arguments) throws Exception {
        Repository repository = new FileRepositoryBuilder().setGitDir(new File(arguments[0])).build();
        GitServlet servlet = new GitServlet();
        servlet.setRepositoryResolver((request, name) -> { repository.incrementOpen(); return repository; });
        servlet.setReceivePackFactory((request, opened) -> new ReceivePack(opened));
        Server server = new Server();
        ServerConnector connector = new ServerConnector(server);
        connector.setHost("127.0.0.1");
        server.addConnector(connector);
        ServletContextHandler context = new ServletContextHandler();
        context.addServlet(new ServletHolder(servlet), "/*");
        server.setHandler(context);
        server.start();
        System.out.println(connector.getLocalPort());
        System.in.read();
        System.exit(0);
    }
}
