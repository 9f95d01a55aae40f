// What everybody who waits relies on, for every kind of work.
#include "core/base/completion.h"

#include <gtest/gtest.h>
#include <spdlog/sinks/ostream_sink.h>
#include <spdlog/spdlog.h>

#include <sstream>

#include "tests/core/completion_kinds.h"

namespace thimble {
namespace {

using namespace std::chrono_literals;

bool becomes_done(const Completion& completion) {
  const auto end = std::chrono::steady_clock::now() + 10s;
  while (std::chrono::steady_clock::now() < end) {
    if (completion.done()) return true;
    std::this_thread::sleep_for(100us);
  }
  return false;
}

// What is logged while it lives.
class LogCapture {
 public:
  LogCapture() : before_(spdlog::default_logger()) {
    spdlog::set_default_logger(std::make_shared<spdlog::logger>(
        "test", std::make_shared<spdlog::sinks::ostream_sink_mt>(text_)));
    // Whatever was said last is new again.
    static_cast<void>(Stream("other words").run([] { throw SystemError("other words"); }));
    text_.str("");
  }
  ~LogCapture() { spdlog::set_default_logger(before_); }
  LogCapture(const LogCapture&) = delete;
  LogCapture& operator=(const LogCapture&) = delete;
  std::size_t count(const std::string& words) const {
    const std::string text = text_.str();
    std::size_t found = 0;
    for (auto at = text.find(words); at != std::string::npos; at = text.find(words, at + 1))
      ++found;
    return found;
  }

 private:
  std::ostringstream text_;
  std::shared_ptr<spdlog::logger> before_;
};

class CompletionTest : public ::testing::TestWithParam<NamedKind> {
 protected:
  void SetUp() override {
    try {
      work_ = GetParam().make();
    } catch (const SystemError& error) {
      GTEST_SKIP() << error.what();  // a kernel without io_uring
    }
  }
  void TearDown() override {
    if (releasing_.joinable()) releasing_.join();
  }
  // Long enough that whoever does not wait is seen.
  void release_soon() {
    releasing_ = std::thread([this] {
      std::this_thread::sleep_for(30ms);
      work_->release();
    });
  }

  std::unique_ptr<KindOfWork> work_;
  std::thread releasing_;
};

TEST_P(CompletionTest, WaitReturnsWhenAllOfItHasEnded) {
  Completion completion = work_->start();
  release_soon();
  completion.wait();
  EXPECT_TRUE(work_->has_arrived());
  EXPECT_TRUE(completion.done());
  completion.wait();
}

TEST_P(CompletionTest, DoneBecomesTrueAndThenAllHasArrived) {
  Completion completion = work_->start();
  if (work_->is_held_up()) {
    EXPECT_FALSE(completion.done());
  }
  work_->release();
  ASSERT_TRUE(becomes_done(completion));
  EXPECT_TRUE(work_->has_arrived());
  completion.wait();
  EXPECT_TRUE(completion.done());
}

TEST_P(CompletionTest, TheErrorIsThrownOnce) {
  Completion completion = work_->start_failing();
  EXPECT_NE(testing::message_of<SystemError>([&] { completion.wait(); }).find(work_->words()),
            std::string::npos);
  EXPECT_TRUE(completion.done());
  EXPECT_NO_THROW(completion.wait());
}

TEST_P(CompletionTest, WhatHasFailedIsDoneBeforeItThrows) {
  Completion completion = work_->start_failing();
  ASSERT_TRUE(becomes_done(completion));
  EXPECT_NE(testing::message_of<SystemError>([&] { completion.wait(); }).find(work_->words()),
            std::string::npos);
}

TEST_P(CompletionTest, TheDestructorWaits) {
  {
    const Completion completion = work_->start();
    release_soon();
  }
  EXPECT_TRUE(work_->has_arrived());
}

TEST_P(CompletionTest, AssignmentWaitsForWhatItReplaces) {
  Completion completion = work_->start();
  release_soon();
  completion = Completion();
  EXPECT_TRUE(work_->has_arrived());
}

TEST_P(CompletionTest, WhatWasMovedFromIsDone) {
  Completion first = work_->start();
  Completion second = std::move(first);
  EXPECT_TRUE(first.done());  // NOLINT(bugprone-use-after-move): what is tested
  first.wait();
  release_soon();
  second.wait();
  EXPECT_TRUE(work_->has_arrived());
}

TEST_P(CompletionTest, WhatFollowsComesAfterIt) {
  Completion completion = work_->start();
  release_soon();
  completion.follow();
  EXPECT_TRUE(work_->has_arrived());
  completion.wait();
  completion.follow();
  EXPECT_TRUE(completion.done());
}

TEST_P(CompletionTest, AnErrorThatNobodyReadIsLoggedIfItIsLostAndNotThrown) {
  const LogCapture log;
  { const Completion completion = work_->start_failing(); }
  const std::size_t lines = work_->error_stays() ? 0 : 1;
  EXPECT_EQ(log.count("[error] background work failed and nobody waited for it"), lines);
  EXPECT_EQ(log.count(work_->words()), lines);
}

TEST_P(CompletionTest, WaitAllWaitsForAllAndThrowsTheFirstError) {
  const LogCapture log;
  Stream stream("others");
  std::atomic<int> ran = 0;
  std::vector<Completion> all(2);  // two are of nothing
  all.push_back(stream.run([&] { ++ran; }));
  all.push_back(work_->start_failing());
  all.push_back(stream.run([] { throw SystemError("a later one"); }));
  all.push_back(stream.run([&] {
    std::this_thread::sleep_for(30ms);
    ++ran;
  }));
  EXPECT_NE(testing::message_of<SystemError>([&] { wait_all(all); }).find(work_->words()),
            std::string::npos);
  EXPECT_EQ(ran, 2);
  for (const Completion& one : all) EXPECT_TRUE(one.done());
  EXPECT_EQ(log.count("a later one"), 1u);
  EXPECT_EQ(log.count(work_->words()), 0u);
  EXPECT_NO_THROW(wait_all(all));
}

INSTANTIATE_TEST_SUITE_P(Kinds, CompletionTest, ::testing::ValuesIn(kinds_of_work()),
                         [](const auto& info) { return std::string(info.param.name); });

TEST(CompletionOfNothing, IsDone) {
  Completion completion;
  EXPECT_TRUE(completion.done());
  completion.wait();
  completion.follow();
  EXPECT_NO_THROW(wait_all({}));
  completion = Completion();
  EXPECT_TRUE(completion.done());
}

TEST(CompletionOfStream, OutlivesIt) {
  Completion good, bad;
  int ran = 0;
  {
    Stream stream("short");
    bad = stream.run([] { throw SystemError("outlived"); });
    good = stream.run([&] { ran = 1; });
  }
  EXPECT_TRUE(good.done());
  EXPECT_EQ(ran, 1);
  EXPECT_THROW(bad.wait(), SystemError);
}

// Not of std::exception.
TEST(CompletionLog, TakesAnyError) {
  const LogCapture log;
  Stream stream("test");
  static_cast<void>(stream.run([] { throw 5; }));
  EXPECT_EQ(log.count("not a std::exception"), 1u);
}

}  // namespace
}  // namespace thimble
