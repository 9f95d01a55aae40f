// Messages between two processes, in order: texts, with bytes after them or a descriptor beside
// them. On one machine they go through a socket that has a name but no file (and so leaves none);
// between machines through TCP.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "core/io/file.h"

namespace thimble {

/// The longest text of a message.
inline constexpr std::int64_t kLongestMessage = std::int64_t{16} << 20;

struct ChannelMessage {
  std::string text;
  std::int64_t payload_bytes = 0;  // that receive_payload() has to take before the next message
  FileDescriptor descriptor;       // if one came with it
};

/// The IPv4 address, in numbers, of a network interface ("eth0"); an address in numbers is itself.
/// Throws UserError that lists the interfaces.
std::string ipv4_address(const std::string& interface_or_address);

/// One end of a connection. One thread sends and one receives at a time. Errors are SystemErrors.
class Channel {
 public:
  /// To a listener of this user on this machine; none if nobody listens under that name. Throws
  /// UserError if another user does.
  static std::optional<Channel> connect_local(const std::string& name);
  /// To a listener at "ADDRESS:PORT", numbers. Throws if nobody answers within the limit.
  static Channel connect_tcp(const std::string& address, double limit_s);

  /// A wait for the other end longer than this is an error; 0: none is.
  void set_time_limit(double seconds);
  /// descriptor: -1 for none; on one machine only.
  void send(std::string_view text, int descriptor = -1) { send(text, {}, descriptor); }
  void send(std::string_view text, std::span<const std::byte> payload, int descriptor = -1);
  /// None: the other end is closed.
  std::optional<ChannelMessage> receive();
  /// Fills it with the next bytes of the payload.
  void receive_payload(std::span<std::byte> bytes);
  /// Whether receive() has something to take, if only that the other end is closed.
  bool has_message(double wait_s = 0) const;
  int descriptor() const { return socket_.get(); }

 private:
  friend class ChannelListener;
  explicit Channel(FileDescriptor socket) : socket_(std::move(socket)) {}
  std::size_t take(std::span<std::byte> bytes, FileDescriptor* descriptor);

  FileDescriptor socket_;
};

class ChannelListener {
 public:
  /// For processes of this user on this machine; none if another process has the name.
  static std::optional<ChannelListener> listen_local(const std::string& name);
  /// At "ADDRESS" on a free port.
  static ChannelListener listen_tcp(const std::string& address);

  /// Of the next one who asks; none if it is another user, or is gone.
  std::optional<Channel> accept();
  /// "ADDRESS:PORT" of a listener of TCP.
  const std::string& address() const { return address_; }
  int descriptor() const { return socket_.get(); }

 private:
  explicit ChannelListener(FileDescriptor socket) : socket_(std::move(socket)) {}

  FileDescriptor socket_;
  std::string address_;  // empty: on this machine
};

}  // namespace thimble
