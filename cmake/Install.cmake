# cmake --install: the program, its manual page and completions (written by the program itself), job schema, examples, docs.
include(GNUInstallDirs)
set(share "${PROJECT_BINARY_DIR}/generated/share")
set(made "")
foreach(item "thimble.1;--man" "thimble.bash;completion;bash" "_thimble;completion;zsh" "thimble.fish;completion;fish"
             "job.schema.json;job;--schema")
  list(POP_FRONT item file)
  add_custom_command(
    OUTPUT "${share}/${file}"
    COMMAND ${CMAKE_COMMAND} -E make_directory "${share}"
    COMMAND $<TARGET_FILE:thimble> help ${item} > "${share}/${file}"
    DEPENDS thimble
    VERBATIM)
  list(APPEND made "${share}/${file}")
endforeach()
add_custom_target(thimble_share ALL DEPENDS ${made})

install(TARGETS thimble RUNTIME DESTINATION "${CMAKE_INSTALL_BINDIR}")
install(FILES "${share}/thimble.1" DESTINATION "${CMAKE_INSTALL_MANDIR}/man1")
install(FILES "${share}/thimble.bash" DESTINATION "${CMAKE_INSTALL_DATADIR}/bash-completion/completions" RENAME thimble)
install(FILES "${share}/_thimble" DESTINATION "${CMAKE_INSTALL_DATADIR}/zsh/site-functions")
install(FILES "${share}/thimble.fish" DESTINATION "${CMAKE_INSTALL_DATADIR}/fish/vendor_completions.d")
install(FILES "${share}/job.schema.json" DESTINATION "${CMAKE_INSTALL_DATADIR}/thimble")
install(DIRECTORY "${PROJECT_SOURCE_DIR}/examples" DESTINATION "${CMAKE_INSTALL_DATADIR}/thimble")
# Where the README's links expect them.
install(DIRECTORY "${PROJECT_SOURCE_DIR}/docs" DESTINATION "${CMAKE_INSTALL_DOCDIR}"
        FILES_MATCHING PATTERN "*.md" PATTERN "*.svg")
install(FILES "${PROJECT_SOURCE_DIR}/README.md" DESTINATION "${CMAKE_INSTALL_DOCDIR}")
