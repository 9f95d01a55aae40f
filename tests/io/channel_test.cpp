// Messages and memory between processes.
#include "core/io/channel.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <thread>

#include "core/base/error.h"
#include "core/io/memory_file.h"
#include "tests/io/temp_dir.h"

namespace thimble {
namespace {

std::string fresh_name() {
  return fmt::format("thimble-test-{}-{}", ::getpid(), std::random_device()());
}

struct Ends {
  Channel mine, theirs;
};

Ends connect_local() {
  const std::string name = fresh_name();
  auto listener = ChannelListener::listen_local(name).value();
  Channel mine = Channel::connect_local(name).value();
  return {std::move(mine), listener.accept().value()};
}

Ends connect_tcp() {
  ChannelListener listener = ChannelListener::listen_tcp("127.0.0.1");
  Channel mine = Channel::connect_tcp(listener.address(), 5);
  return {std::move(mine), listener.accept().value()};
}

TEST(ChannelTest, TextsAndPayloadsComeInOrder) {
  for (const auto& connect : {connect_local, connect_tcp}) {
    Ends ends = connect();
    const auto large = testing::random_bytes(3 << 20, 1);
    std::thread sender([&] {
      ends.mine.send("");
      ends.mine.send("one");
      ends.mine.send("with bytes", large);
      ends.mine.send(std::string(kLongestMessage, 'x'));
    });
    EXPECT_EQ(ends.theirs.receive()->text, "");
    EXPECT_EQ(ends.theirs.receive()->text, "one");
    const ChannelMessage with = *ends.theirs.receive();
    EXPECT_EQ(with.text, "with bytes");
    ASSERT_EQ(with.payload_bytes, 3 << 20);
    std::vector<std::byte> got(large.size());
    ends.theirs.receive_payload(std::span(got).first(17));
    ends.theirs.receive_payload(std::span(got).subspan(17));
    EXPECT_TRUE(got == large);
    EXPECT_EQ(ends.theirs.receive()->text.size(), static_cast<std::size_t>(kLongestMessage));
    sender.join();
    EXPECT_FALSE(ends.theirs.has_message());
    ends.theirs.send("back");
    EXPECT_TRUE(ends.mine.has_message(5));
    EXPECT_EQ(ends.mine.receive()->text, "back");
  }
}

TEST(ChannelTest, AnEndThatGoesIsNoticed) {
  for (const auto& connect : {connect_local, connect_tcp}) {
    std::optional<Channel> left;
    {
      Ends ends = connect();
      left.emplace(std::move(ends.theirs));
      ends.mine.send("last");
    }
    EXPECT_EQ(left->receive()->text, "last");
    EXPECT_TRUE(left->has_message());
    EXPECT_FALSE(left->receive());
    EXPECT_THROW(
        {
          left->send(std::string(100, 'x'));
          left->send(std::string(100, 'x'));
        },
        SystemError);
  }
}

TEST(ChannelTest, WhatIsNoMessageIsRefused) {
  Ends ends = connect_local();
  const std::string noise = "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";
  ASSERT_EQ(::send(ends.mine.descriptor(), noise.data(), noise.size(), 0),
            static_cast<ssize_t>(noise.size()));
  EXPECT_THROWS_WITH(SystemError, "no message", ends.theirs.receive());
}

TEST(ChannelTest, SilenceIsLimited) {
  Ends ends = connect_local();
  ends.theirs.set_time_limit(0.05);
  EXPECT_THROWS_WITH(SystemError, "does not answer", ends.theirs.receive());
}

TEST(ChannelTest, NamesAndAddresses) {
  const std::string name = fresh_name();
  EXPECT_FALSE(Channel::connect_local(name));
  {
    const auto listener = ChannelListener::listen_local(name);
    ASSERT_TRUE(listener);
    EXPECT_FALSE(ChannelListener::listen_local(name));
    EXPECT_TRUE(Channel::connect_local(name));
  }
  EXPECT_FALSE(Channel::connect_local(name));
  for (const char* bad : {"127.0.0.1:x", "127.0.0.1:99999", "nowhere:1", ""})
    EXPECT_THROW(Channel::connect_tcp(bad, 1), UserError) << bad;
  const std::string closed = ChannelListener::listen_tcp("127.0.0.1").address();
  EXPECT_THROW(Channel::connect_tcp(closed, 1), SystemError);
}

TEST(ChannelTest, InterfacesHaveAddresses) {
  EXPECT_EQ(ipv4_address("lo"), "127.0.0.1");
  EXPECT_EQ(ipv4_address("10.1.2.3"), "10.1.2.3");
  EXPECT_THROWS_WITH(UserError, "'no such' is no network interface", ipv4_address("no such"));
}

TEST(MemoryFileTest, IsSharedWithWhoeverGetsTheDescriptor) {
  Ends ends = connect_local();
  {
    const MemoryFile memory = MemoryFile::create("test", 5000);
    const MappedMemory mapped(memory);
    std::memcpy(mapped.bytes().data() + 4990, "kept", 4);
    ends.mine.send("memory", memory.descriptor());
  }
  ChannelMessage message = *ends.theirs.receive();
  const MemoryFile got = MemoryFile::adopt(std::move(message.descriptor));
  EXPECT_EQ(got.bytes(), 5000);
  const MappedMemory mapped(got);
  EXPECT_EQ(std::memcmp(mapped.bytes().data() + 4990, "kept", 4), 0);
  // Nobody can take it away under its readers.
  EXPECT_NE(::ftruncate(got.descriptor(), 0), 0);
}

TEST(MemoryFileTest, OnlySealedMemoryIsTaken) {
  FileDescriptor plain(::memfd_create("plain", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  EXPECT_THROW(MemoryFile::adopt(std::move(plain)), SystemError);
  EXPECT_THROW(MemoryFile::adopt(FileDescriptor()), SystemError);
}

TEST(MemoryFileTest, TakesThePlaceOfPrivateMemoryForAWhile) {
  constexpr std::size_t kBytes = 3 * 4096;
  auto* all = static_cast<std::byte*>(
      ::mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  all[0] = all[4096] = all[8192] = std::byte{1};
  const MemoryFile memory = MemoryFile::create("test", 4096);
  {
    const MappedMemory mapped(memory, all + 4096);
    EXPECT_EQ(mapped.bytes().data(), all + 4096);
    EXPECT_EQ(all[4096], std::byte{0});
    all[4097] = std::byte{2};
  }
  EXPECT_EQ(all[4097], std::byte{0});
  EXPECT_EQ(all[0], std::byte{1});
  EXPECT_EQ(all[8192], std::byte{1});
  const MappedMemory again(memory);
  EXPECT_EQ(again.bytes()[1], std::byte{2});
  ::munmap(all, kBytes);
}

}  // namespace
}  // namespace thimble
