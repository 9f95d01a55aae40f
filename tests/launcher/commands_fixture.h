// A finished run and a few files for the tests of commands.
#pragma once

#include <algorithm>
#include <string>

#include "tests/launcher/program.h"

namespace thimble {

// One finished run, made once; every test works in it under names of its own.
class CommandsTest : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    shared_ = new ProgramDir;
    ASSERT_EQ(shared_->run("train job.toml --set training.max_steps=2"), 0) << shared_->err();
    shared_->write("pairs.jsonl",
                   "{\"prompt\":\"2+2? \",\"completion\":\"4!\"}\n{\"prompt\":\"3+3? "
                   "\",\"completion\":\"6!\"}\n");
  }
  static void TearDownTestSuite() {
    delete shared_;
    shared_ = nullptr;
  }

  // A user's mistake: exit 2, one line on standard error that holds `part`, nothing on standard
  // output.
  void expect_mistake(const std::string& arguments, const std::string& part) {
    EXPECT_EQ(d().run(arguments), 2) << arguments;
    const std::string error = d().err();
    EXPECT_NE(error.find(part), std::string::npos) << arguments << ": " << error;
    EXPECT_EQ(std::count(error.begin(), error.end(), '\n'), 1) << error;
    EXPECT_EQ(d().out(), "") << arguments;
  }
  ProgramDir& d() { return *shared_; }
  bool contains(const std::string& part) { return d().out().find(part) != std::string::npos; }

  static inline ProgramDir* shared_ = nullptr;
};

}  // namespace thimble
