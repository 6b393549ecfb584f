// Loaded into every server and client that is measured: asks no name service for the name of a peer.
//
// torch's server looks up the name of each peer that it accepts, inside its event loop; how long that takes is a matter
// of the network, not of the server. So getnameinfo gives the address as a number, for everybody alike.

#include <dlfcn.h>
#include <netdb.h>

extern "C" int getnameinfo(const sockaddr *address, socklen_t size, char *host, socklen_t host_size, char *service,
                           socklen_t service_size, int flags) {
    using Function = decltype(&getnameinfo);
    static const auto real = reinterpret_cast<Function>(dlsym(RTLD_NEXT, "getnameinfo"));
    flags = (flags & ~NI_NAMEREQD) | NI_NUMERICHOST | NI_NUMERICSERV;
    return real(address, size, host, host_size, service, service_size, flags);
}
