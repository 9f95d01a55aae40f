#include "core/io/channel.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <ifaddrs.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <charconv>
#include <cmath>
#include <cstring>
#include <memory>

#include "core/base/error.h"
#include "core/base/numeric.h"
#include "core/base/text.h"

namespace thimble {
namespace {

constexpr std::uint32_t kMagic = 0x54484d43;  // "THMC": whoever connects by mistake is told apart
constexpr int kWaiting = 64;                  // connections that nobody has accepted yet
constexpr std::int64_t kLargestPayload = std::int64_t{1} << 50;

struct Frame {
  std::uint32_t magic = kMagic;
  std::uint32_t text_bytes = 0;
  std::int64_t payload_bytes = 0;
};

FileDescriptor open_socket(int family, const std::string& name) {
  FileDescriptor socket(::socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!socket) throw_errno("socket", name);
  return socket;
}

struct LocalAddress {
  explicit LocalAddress(const std::string& name) {
    address.sun_family = AF_UNIX;
    TH_CHECK(name.size() + 1 < sizeof(address.sun_path), "the name {} is too long", name);
    // A leading zero: the name is the kernel's, not a file's.
    std::memcpy(address.sun_path + 1, name.data(), name.size());
    bytes = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + name.size());
  }
  const sockaddr* get() const { return reinterpret_cast<const sockaddr*>(&address); }
  sockaddr_un address{};
  socklen_t bytes = 0;
};

sockaddr_in tcp_address(const std::string& text) {
  const std::size_t colon = text.rfind(':');
  const std::string host = text.substr(0, colon);
  std::uint16_t port = 0;
  if (colon != text.npos) {
    const char* end = text.data() + text.size();
    const auto [last, error] = std::from_chars(text.data() + colon + 1, end, port);
    if (error != std::errc() || last != end)
      throw_user("{}: allowed ADDRESS:PORT, both in numbers", text);
  }
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  if (::inet_pton(AF_INET, host.c_str(), &address.sin_addr) != 1)
    throw_user("{}: is no IPv4 address in numbers", host);
  return address;
}

const sockaddr* as_socket_address(const sockaddr_in& address) {
  return reinterpret_cast<const sockaddr*>(&address);
}

bool is_same_user(int socket) {
  ucred other{};
  socklen_t bytes = sizeof(other);
  return ::getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &other, &bytes) == 0 &&
         other.uid == ::geteuid();
}

bool wait_for(int descriptor, short events, double seconds) {
  pollfd asked{descriptor, events, 0};
  int found = 0;
  do {
    found = ::poll(&asked, 1, static_cast<int>(std::lround(seconds * 1000)));
  } while (found < 0 && errno == EINTR);
  return found > 0;
}

void limit_wait(int socket, int option, double seconds) {
  const auto whole = static_cast<time_t>(seconds);
  const timeval limit{whole,
                      static_cast<suseconds_t>((seconds - static_cast<double>(whole)) * 1e6)};
  ::setsockopt(socket, SOL_SOCKET, option, &limit, sizeof(limit));
}

void send_no_delay(int socket) {
  const int on = 1;
  ::setsockopt(socket, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
}

// One descriptor beside the first byte.
union DescriptorRoom {
  char bytes[CMSG_SPACE(sizeof(int))];
  cmsghdr align;
};

void send_all(int socket, std::span<const std::byte> bytes, int descriptor) {
  DescriptorRoom room{};
  while (!bytes.empty()) {
    iovec part{const_cast<std::byte*>(bytes.data()), bytes.size()};
    msghdr message{};
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    if (descriptor >= 0) {
      message.msg_control = room.bytes;
      message.msg_controllen = sizeof(room.bytes);
      cmsghdr* beside = CMSG_FIRSTHDR(&message);
      beside->cmsg_level = SOL_SOCKET;
      beside->cmsg_type = SCM_RIGHTS;
      beside->cmsg_len = CMSG_LEN(sizeof(int));
      std::memcpy(CMSG_DATA(beside), &descriptor, sizeof(int));
    }
    const ssize_t sent = ::sendmsg(socket, &message, MSG_NOSIGNAL);
    if (sent < 0 && errno == EINTR) continue;
    if (sent < 0) throw_errno("sendmsg", "a message to another process");
    bytes = bytes.subspan(static_cast<std::size_t>(sent));
    descriptor = -1;
  }
}

// The last one that came beside the bytes; any others are closed.
void keep_descriptor(msghdr& message, FileDescriptor* kept) {
  for (cmsghdr* beside = CMSG_FIRSTHDR(&message); beside != nullptr;
       beside = CMSG_NXTHDR(&message, beside)) {
    if (beside->cmsg_level != SOL_SOCKET || beside->cmsg_type != SCM_RIGHTS) continue;
    int descriptor = -1;
    std::memcpy(&descriptor, CMSG_DATA(beside), sizeof(int));
    FileDescriptor owned(descriptor);
    if (kept != nullptr) *kept = std::move(owned);
  }
}

}  // namespace

std::string ipv4_address(const std::string& interface_or_address) {
  in_addr given{};
  if (::inet_pton(AF_INET, interface_or_address.c_str(), &given) == 1) return interface_or_address;
  ifaddrs* all = nullptr;
  if (::getifaddrs(&all) != 0) throw_errno("getifaddrs", interface_or_address);
  const std::unique_ptr<ifaddrs, void (*)(ifaddrs*)> owned(all, &::freeifaddrs);
  std::vector<std::string> names;
  for (const ifaddrs* i = all; i != nullptr; i = i->ifa_next) {
    if (i->ifa_addr == nullptr || i->ifa_addr->sa_family != AF_INET) continue;
    std::array<char, INET_ADDRSTRLEN> text{};
    ::inet_ntop(AF_INET, &reinterpret_cast<const sockaddr_in*>(i->ifa_addr)->sin_addr, text.data(),
                text.size());
    if (interface_or_address == i->ifa_name) return text.data();
    names.emplace_back(i->ifa_name);
  }
  throw_user("'{}' is no network interface of this machine; allowed: an IPv4 address, or one of {}",
             printable(interface_or_address), join(names));
}

std::optional<Channel> Channel::connect_local(const std::string& name) {
  FileDescriptor socket = open_socket(AF_UNIX, name);
  const LocalAddress address(name);
  if (::connect(socket.get(), address.get(), address.bytes) != 0) {
    if (errno == ECONNREFUSED || errno == ENOENT) return std::nullopt;
    throw_errno("connect", name);
  }
  if (!is_same_user(socket.get())) throw_user("{}: belongs to another user", name);
  return Channel(std::move(socket));
}

Channel Channel::connect_tcp(const std::string& address, double limit_s) {
  const sockaddr_in to = tcp_address(address);
  FileDescriptor socket = open_socket(AF_INET, address);
  const int flags = ::fcntl(socket.get(), F_GETFL);
  ::fcntl(socket.get(), F_SETFL, flags | O_NONBLOCK);
  if (::connect(socket.get(), as_socket_address(to), sizeof(to)) != 0) {
    if (errno != EINPROGRESS) throw_errno("connect", address);
    if (!wait_for(socket.get(), POLLOUT, limit_s))
      throw_system("{}: no answer within {} s", address, limit_s);
    int error = 0;
    socklen_t bytes = sizeof(error);
    ::getsockopt(socket.get(), SOL_SOCKET, SO_ERROR, &error, &bytes);
    if (error != 0) throw_system("{}: {}", address, std::strerror(error));
  }
  ::fcntl(socket.get(), F_SETFL, flags);
  send_no_delay(socket.get());
  return Channel(std::move(socket));
}

void Channel::set_time_limit(double seconds) {
  limit_wait(socket_.get(), SO_RCVTIMEO, seconds);
  limit_wait(socket_.get(), SO_SNDTIMEO, seconds);
}

void Channel::send(std::string_view text, std::span<const std::byte> payload, int descriptor) {
  TH_CHECK(static_cast<std::int64_t>(text.size()) <= kLongestMessage);
  const Frame frame{.text_bytes = narrow<std::uint32_t>(text.size()),
                    .payload_bytes = narrow<std::int64_t>(payload.size())};
  std::string head(reinterpret_cast<const char*>(&frame), sizeof(frame));
  head += text;
  send_all(socket_.get(), std::as_bytes(std::span(head)), descriptor);
  send_all(socket_.get(), payload, -1);
}

// Bytes taken: fewer than asked for only if the other end is closed.
std::size_t Channel::take(std::span<std::byte> bytes, FileDescriptor* descriptor) {
  std::size_t taken = 0;
  while (taken < bytes.size()) {
    DescriptorRoom room{};
    iovec part{bytes.data() + taken, bytes.size() - taken};
    msghdr message{};
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    message.msg_control = room.bytes;
    message.msg_controllen = sizeof(room.bytes);
    const ssize_t got = ::recvmsg(socket_.get(), &message, MSG_CMSG_CLOEXEC);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0 && errno == ECONNRESET) return taken;
    if (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
      throw_system("another process does not answer");
    if (got < 0) throw_errno("recvmsg", "a message of another process");
    keep_descriptor(message, descriptor);
    if (got == 0) return taken;
    taken += static_cast<std::size_t>(got);
  }
  return taken;
}

std::optional<ChannelMessage> Channel::receive() {
  Frame frame{};
  ChannelMessage message;
  const std::size_t got = take(std::as_writable_bytes(std::span(&frame, 1)), &message.descriptor);
  if (got < sizeof(frame)) return std::nullopt;
  if (frame.magic != kMagic || frame.text_bytes > kLongestMessage || frame.payload_bytes < 0 ||
      frame.payload_bytes > kLargestPayload)
    throw_system("what came from another process is no message");
  message.payload_bytes = frame.payload_bytes;
  message.text.resize(frame.text_bytes);
  if (take(std::as_writable_bytes(std::span(message.text)), &message.descriptor) <
      message.text.size())
    return std::nullopt;
  return message;
}

void Channel::receive_payload(std::span<std::byte> bytes) {
  if (take(bytes, nullptr) < bytes.size()) throw_system("another process ended within a message");
}

bool Channel::has_message(double wait_s) const {
  return wait_for(socket_.get(), POLLIN, wait_s);
}

std::optional<ChannelListener> ChannelListener::listen_local(const std::string& name) {
  ChannelListener listener(open_socket(AF_UNIX, name));
  const LocalAddress address(name);
  if (::bind(listener.descriptor(), address.get(), address.bytes) != 0) {
    if (errno == EADDRINUSE) return std::nullopt;
    throw_errno("bind", name);
  }
  if (::listen(listener.descriptor(), kWaiting) != 0) throw_errno("listen", name);
  return listener;
}

ChannelListener ChannelListener::listen_tcp(const std::string& address) {
  ChannelListener listener(open_socket(AF_INET, address));
  sockaddr_in at = tcp_address(address);
  if (::bind(listener.descriptor(), as_socket_address(at), sizeof(at)) != 0)
    throw_errno("bind", address);
  if (::listen(listener.descriptor(), kWaiting) != 0) throw_errno("listen", address);
  socklen_t bytes = sizeof(at);
  ::getsockname(listener.descriptor(), reinterpret_cast<sockaddr*>(&at), &bytes);
  std::array<char, INET_ADDRSTRLEN> host{};
  ::inet_ntop(AF_INET, &at.sin_addr, host.data(), host.size());
  listener.address_ = fmt::format("{}:{}", host.data(), ntohs(at.sin_port));
  return listener;
}

std::optional<Channel> ChannelListener::accept() {
  FileDescriptor socket(::accept4(socket_.get(), nullptr, nullptr, SOCK_CLOEXEC));
  if (!socket) return std::nullopt;
  if (address_.empty()) {
    if (!is_same_user(socket.get())) return std::nullopt;
  } else {
    send_no_delay(socket.get());
  }
  return Channel(std::move(socket));
}

}  // namespace thimble
