# Passed as CMAKE_PROJECT_INCLUDE when building against the ROS 2 wheels from PyPI (tools/build_messages.py).
# The wheels' exported targets carry include directories of the machine that built them (/opt/python/...), and CMake
# refuses imported targets whose include directories do not exist. Once all packages are found, those are dropped.
# Nothing happens where there are none, as on a ROS 2 distribution.

function(drop_missing_include_directories)
  get_property(targets DIRECTORY PROPERTY IMPORTED_TARGETS)
  foreach(target IN LISTS targets)
    get_target_property(directories ${target} INTERFACE_INCLUDE_DIRECTORIES)
    if(NOT directories)
      continue()
    endif()
    set(kept "")
    foreach(directory IN LISTS directories)
      if(directory MATCHES "^/opt/python/" AND NOT EXISTS "${directory}")
        continue()
      endif()
      list(APPEND kept "${directory}")
    endforeach()
    set_target_properties(${target} PROPERTIES INTERFACE_INCLUDE_DIRECTORIES "${kept}")
  endforeach()
endfunction()

cmake_language(DEFER CALL drop_missing_include_directories)
